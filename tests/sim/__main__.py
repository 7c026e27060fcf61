"""`python -m tests.sim`: many seeds in parallel, or one seed with its trace."""

import argparse
import gc
import logging
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from traceback import format_exc

from tests.sim.run import Result, run


def _one(seed: int) -> Result:
    gc.disable()
    if seed % 20 == 0:
        gc.collect()
    try:
        return run(seed)
    except Exception:  # a bug of the simulator itself, or one that it didn't expect
        return Result(seed, format_exc(), "", 0.0, 0, Counter(), [])


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
    began, faults = time.monotonic(), Counter[str]()
    done = failed = operations = 0
    virtual_s = 0.0
    with ProcessPoolExecutor(arguments.processes) as pool:
        for result in pool.map(_one, seeds, chunksize=5):
            done += 1
            operations += result.operations
            virtual_s += result.virtual_s
            faults += result.faults
            if result.failure:
                failed += 1
                print(f"\nseed {result.seed} failed: {result.failure[:3000]}")
                print(f"replay: python -m tests.sim --seed {result.seed}")
                if failed >= arguments.failures:
                    pool.shutdown(cancel_futures=True)
                    break
            if sys.stderr.isatty() or done % 100 == 0:
                print(f"\r{done}/{len(seeds)} seeds, {failed} failed", end="", file=sys.stderr)
    seconds = time.monotonic() - began
    print(
        f"\n{done} seeds, {failed} failed; {virtual_s / 3600:.1f} simulated hours, "
        f"{operations} operations in {seconds:.0f} s"
    )
    print(", ".join(f"{name} {count}" for name, count in sorted(faults.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
