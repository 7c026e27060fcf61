#!/usr/bin/env python3
"""The part of requirements.lock that one image needs, hashes and all, on stdout.

    scripts/lock_subset.py node         # the extra `node` of pyproject.toml
    scripts/lock_subset.py --build      # what builds the wheel

There is one lock for everybody; it says of each package who asked for it, and
that is followed from the extra's own packages to what they need. Only the
standard library is used: it runs where nothing is installed yet.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def subset(what: str, root: Path = ROOT) -> str:
    """Blocks of the lock, in its order; KeyError for an extra or package that isn't there."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    if what == "--build":
        wanted = project["build-system"]["requires"]
    else:
        wanted = project["project"]["optional-dependencies"][what]
    blocks = _blocks((root / "requirements.lock").read_text())
    needed = {_name(requirement) for requirement in wanted}
    if missing := needed - set(blocks):
        raise KeyError(f"{', '.join(sorted(missing))}: not in requirements.lock (`make lock`)")
    while more := {
        name for name, (_, parents) in blocks.items() if name not in needed and parents & needed
    }:
        needed |= more
    return "".join(text for name, (text, _) in blocks.items() if name in needed)


def _blocks(lock: str) -> dict[str, tuple[str, set[str]]]:
    """Each package's lines, and the packages that asked for it."""
    found: dict[str, tuple[str, set[str]]] = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]:
        comments = re.findall(r"^ +# +(?:via +)?(\S.*)$", block, flags=re.MULTILINE)
        found[_name(block)] = (block, {_name(line) for line in comments if line != "via"})
    return found


def _name(text: str) -> str:
    match = NAME.match(text)
    if match is None:
        raise ValueError(f"{text!r} names no package")
    return re.sub(r"[-_.]+", "-", match[0]).lower()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} EXTRA | --build")
    sys.stdout.write(subset(sys.argv[1]))
