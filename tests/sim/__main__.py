"""`python -m tests.sim`: many seeds in parallel, or one seed with its trace."""

import argparse
import gc
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from traceback import format_exc
from typing import Any, Final

from tests.sim.nemesis import FAULTS
from tests.sim.run import Result, run
from tests.sim.shape import draw

CPU_S_MAX: Final = 120.0
"""Of one run; most take half a second. What stands still in virtual time takes for ever."""


class Endless(KeyboardInterrupt):
    """Of that kind, since a task keeps any other exception to itself, and the run would go on."""


@contextmanager
def _bounded() -> Iterator[None]:
    def over(number: int, frame: Any) -> None:
        raise Endless(f"it has taken {CPU_S_MAX:.0f} s of CPU; the last line says where it is")

    signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _one(seed: int) -> Result:
    gc.disable()
    if seed % 20 == 0:
        gc.collect()
    try:
        with _bounded():
            return run(seed)
    except Endless:
        trace = "".join(format_exc().splitlines(keepends=True)[-8:])
        return Result(seed, trace, "", 0.0, 0, Counter(), draw(seed, FAULTS), {}, [])
    except Exception:  # a bug of the simulator itself, or one that it didn't expect
        return Result(seed, format_exc(), "", 0.0, 0, Counter(), draw(seed, FAULTS), {}, [])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds (default 100)")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--failures", type=int, default=5, help="stop after so many failures")
    parser.add_argument("--seed", type=int, help="replay this seed with its trace")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if arguments.seed is not None:
        result = run(arguments.seed, trace=True)
        for when, who, what in result.trace:
            print(f"{when:10.4f}  {who:10}  {what}")
        print(f"seed {result.seed}: digest {result.digest}\n{result.failure or 'clean'}")
        return 1 if result.failure else 0
    return _many(arguments)


def _many(arguments: argparse.Namespace) -> int:
    seeds = range(arguments.start, arguments.start + arguments.seeds)
    began = time.monotonic()
    faults, shapes, counts = Counter[str](), Counter[str](), Counter[str]()
    done = failed = operations = 0
    virtual_s = 0.0
    with ProcessPoolExecutor(arguments.processes) as pool:
        for result in pool.map(_one, seeds, chunksize=5):
            done += 1
            operations += result.operations
            virtual_s += result.virtual_s
            faults += result.faults
            counts.update(result.counts)
            shapes.update(result.shape.kinds())
            if result.failure:
                failed += 1
                print(f"\nseed {result.seed} failed: {result.failure[:3000]}")
                print(f"its shape: {result.shape.told()}")
                print(f"replay: make sim SEED={result.seed}", flush=True)
                if failed >= arguments.failures:
                    pool.shutdown(cancel_futures=True)
                    break
            if sys.stderr.isatty() or done % 100 == 0:
                print(f"\r{done}/{len(seeds)} seeds, {failed} failed", end="", file=sys.stderr)
    seconds = time.monotonic() - began
    for title, found in (("shapes", shapes), ("faults", faults), ("answers", counts)):
        print(f"{title}: " + ", ".join(f"{name} {n}" for name, n in sorted(found.items())))
    print(
        f"{done} seeds ({seeds.start}..{seeds.start + done - 1}), {failed} failed; "
        f"{virtual_s / 3600:.1f} simulated hours, {operations} operations, "
        f"{faults.total()} faults in {seconds:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
