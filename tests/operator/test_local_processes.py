"""Processes: when one is gone."""

import os
import signal
import subprocess
import sys
import time

from dynamo_operator.local import processes

DEADLINE_S = 30.0

# The first thread ends, and what listens is another's: so it is for a moment with every process
# of several threads that is killed.
_FIRST_ENDS = """
import ctypes, socket, threading, time
listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=time.sleep, args=(60,)).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(") ")[2][0]


def test_a_process_is_there_until_its_last_thread_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", _FIRST_ENDS], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            process = processes.identify(child.pid)
            assert process is not None
            deadline = time.monotonic() + DEADLINE_S
            while _state(child.pid) != "Z":
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert processes.alive(process), "its port is still taken"
            assert processes.send(process, signal.SIGKILL)
            while processes.alive(process):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert os.waitpid(child.pid, os.WNOHANG)[0] == child.pid
        finally:
            child.kill()
