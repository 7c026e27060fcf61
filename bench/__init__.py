"""The benchmark: this store beside a three-node etcd, one run, one machine.

Run as ``python -m bench`` (``make bench``). The rooms:

- ``figures``: pure arithmetic over samples (percentiles, medians, ratios).
- ``h2load``: the load generator: its command line, its summary, its request log.
- ``contender``: what every contender offers, and the shape of a load.
- ``store`` (on ``nodes``) and ``etcd``: the contenders, each with its start, loads, proof.
- ``native`` (its process: ``native_load``): this store again, by the client's single hop.
- ``measure``: one cell: generators started, a window cut out, CPU accounted.
- ``processes`` / ``machine``: child processes, ports, ``/proc``; what machine this is.
- ``rounds``: the plan and its alternating rounds. ``report``: tables, JSON, markdown.
- ``profiling``: one of our nodes under a sampling profiler.
- ``mending``: idle, handoff and repair on a filled cluster (``records``), beside a steady
  load (``steady``). ``gossip``: how fast news spreads and what that costs.

Forbidden here: a Python client in the measured path, but for the native
protocol's, whose share of the CPU is stated. The method is explained
in docs/benchmarks.md.
"""
