"""A node that may write below one folder only, as in a container with a read-only root.

`python confined.py FOLDER USER GROUP ARGUMENT ...`: the kernel's Landlock refuses every
other write, whoever the process is; it takes no privilege. USER "" stays who we are; else
the process becomes that user, who has no name, no home and one more GROUP, after the
program is loaded, for the interpreter may be nobody's business. Exit code 77 where the
kernel confines no processes.
"""

import ctypes
import os
import sys

UNSUPPORTED = 77
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVILEGES = 38
_WRITE_FILE, _REMOVE_AND_MAKE, _TRUNCATE = 1 << 1, 0b1_1111_1111 << 4, 1 << 14


class _Ruleset(ctypes.Structure):
    _fields_ = [("handled", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def confine(folder: str) -> None:
    """From now on this process and its children write nothing outside `folder`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_CREATE, None, 0, 1) < 3:  # before version 3 it knows no truncation
        sys.exit(UNSUPPORTED)
    handled = _WRITE_FILE | _REMOVE_AND_MAKE | _TRUNCATE
    ruleset = _Ruleset(handled)
    rules = libc.syscall(_CREATE, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    beneath = _Beneath(handled, os.open(folder, os.O_PATH))
    for failed in (
        rules < 0,
        libc.syscall(_ADD, rules, 1, ctypes.byref(beneath), 0),
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0),
        libc.syscall(_RESTRICT, rules, 0),
    ):
        if failed:
            raise OSError(ctypes.get_errno(), "the kernel doesn't confine this process")


def become(user: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setgid(user)
    os.setuid(user)


if __name__ == "__main__":
    folder, user, group, *arguments = sys.argv[1:]
    confine(folder)
    "".encode("idna")  # what is loaded late would be looked for by the new user

    from dynamo_node.main import main

    if user:
        become(int(user), [int(group)] if group else [])
    sys.argv = ["dynamo-node", *arguments]
    main()
