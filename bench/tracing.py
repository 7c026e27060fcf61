"""What tracing costs: `python -m bench.tracing`.

Owns one comparison: the same three processes under the same load, with tracing off, of
1 % and of all requests, one after another in each round by a change of their live
settings. A ratio is taken within a round. The CPU of the loaded node for each request is
stated beside the throughput: other load on the machine disturbs it less.

Spans go by HTTP to a sink that reads and forgets them, in a process of its own, so that no
collector's work is measured; what the node's own thread does to send them is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import h2load
from bench.errors import BenchError
from bench.figures import spread
from bench.nodes import LAST_WRITE_WINS, Nodes
from bench.ports import free_ports
from bench.processes import Children, cpu_seconds

KEYS = 1_000
VALUE_BYTES = 1024
SETTLE_S = 1.0
"""After a change of settings, which makes an exporter: that isn't what a request costs."""
SETTINGS = (("off", 0.0), ("1 %", 0.01), ("all", 1.0))
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_DONE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def main() -> None:
    """Prints a table to stdout, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.tracing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="each cell")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--sink", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sink is not None:
        asyncio.run(_sink(options.sink))
        return
    h2load.version()
    with tempfile.TemporaryDirectory() as folder, Children() as children:
        _compare(options, children, Path(folder))


def _compare(options: argparse.Namespace, children: Children, folder: Path) -> None:
    nodes = Nodes(children, folder / "nodes", LAST_WRITE_WINS)
    nodes.start()
    [port] = free_ports(1)
    children.serve(
        [sys.executable, "-m", "bench.tracing", "--sink", str(port)], folder / "sink.log"
    )
    endpoint = f"http://127.0.0.1:{port}/v1/traces"
    body = folder / "value"
    body.write_bytes(os.urandom(VALUE_BYTES))
    uris = folder / "uris"
    url = f"http://127.0.0.1:{nodes.http_ports[0]}"
    uris.write_text("".join(f"{url}/kv/k{n}\n" for n in range(KEYS)))
    loaded = nodes.pids()["bench-default-0"]
    fill = h2load.Stream(str(uris), 1, target_is_list=True, body=body, method="PUT", http1=True)
    filling = fill.command(folder / "h2load.log", requests=KEYS)
    filled = subprocess.run(filling, capture_output=True, text=True, check=True, timeout=120)
    if fill.totals(filled.stdout).failed:
        raise BenchError("the keys can't be written")
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for round_ in range(options.rounds + 1):
        for operation in ("put", "get"):
            stream = h2load.Stream(
                str(uris),
                options.connections,
                target_is_list=True,
                body=body if operation == "put" else None,
                method="PUT" if operation == "put" else "",
                http1=True,
            )
            for name, ratio in SETTINGS:
                _tell(nodes, endpoint if name != "off" else "", ratio)
                time.sleep(SETTLE_S)
                before = cpu_seconds(loaded)
                done = _loaded(stream, options.seconds, folder)
                cpu_us = (cpu_seconds(loaded) - before) * 1e6 / done
                if round_:  # the first warms up
                    found.setdefault((operation, name), []).append((done / options.seconds, cpu_us))
    facts = {n: (nodes.admin(n, "/admin/status") or {}).get("tracing") for n in nodes.pids()}
    print(f"{options.rounds} rounds of {options.seconds:g} s, {options.connections} connections\n")
    print("| requests, traced | requests/s | of untraced | of rounds | CPU us each | of untraced |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for (operation, name), samples in found.items():
        base = found[operation, "off"]
        rates = spread(s[0] / b[0] for s, b in zip(samples, base, strict=True))
        cpu = spread(s[1] / b[1] for s, b in zip(samples, base, strict=True))
        rate, each = spread(s[0] for s in samples).median, spread(s[1] for s in samples).median
        print(
            f"| {operation}, {name} | {rate:,.0f} | {rates.median:.2f}x | "
            f"{rates.low:.2f}-{rates.high:.2f} | {each:.0f} | {cpu.median:.2f}x |"
        )
    print(f"\n{json.dumps(facts)}", file=sys.stderr)


def _tell(nodes: Nodes, endpoint: str, ratio: float) -> None:
    body = json.dumps({"tracing": {"endpoint": endpoint, "sampleRatio": ratio}}).encode()
    for name in nodes.pids():
        if nodes.put_settings(name, body) != 200:
            raise BenchError(f"{name} doesn't take the settings")


def _loaded(stream: h2load.Stream, seconds: float, folder: Path) -> int:
    """How many requests succeeded; BenchError if one failed."""
    command = stream.command(folder / "h2load.log", duration_ms=int(seconds * 1000))
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    (folder / "h2load.log").unlink(missing_ok=True)
    totals = stream.totals(done.stdout)
    if totals.failed or not totals.succeeded:
        raise BenchError(f"requests failed: {totals}")
    return totals.succeeded


async def _sink(port: int) -> None:
    async def forget(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = _LENGTH.search(head)
                await reader.readexactly(int(length.group(1)) if length else 0)
                writer.write(_DONE)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(forget, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    main()
