"""The wall clock of this process is off by what a file says, in seconds; right without the file.

Python loads this at its start (skewed_clock.pth). Pods share their machine's clock, so a
process that shall have another one has to be told. Monotonic time stays as it is.
"""

import time
from pathlib import Path

_FILE = Path("/dev/shm/clock-offset")
_true_ns = time.time_ns


def _offset_ns() -> int:
    try:
        return int(float(_FILE.read_text()) * 1e9)
    except (OSError, ValueError):  # not there, or half written
        return 0


def _time_ns() -> int:
    return _true_ns() + _offset_ns()


time.time_ns = _time_ns
time.time = lambda: _time_ns() / 1e9
