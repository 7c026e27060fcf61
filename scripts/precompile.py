"""Bytecode for an image: the same bytes whenever it is built, and never checked at run time.

    python precompile.py FOLDER [PACKAGE MODULE]

Compiles all sources under FOLDER; of PACKAGE, a large one, only what importing MODULE loads.
What an interpreter writes by itself names the source's time, so that no two builds are equal,
and looks at the source at each start.
"""

import compileall
import importlib
import re
import sys
from py_compile import PycInvalidationMode
from typing import Final

UNCHECKED: Final = PycInvalidationMode.UNCHECKED_HASH


def compiled(folder: str, package: str = "", module: str = "") -> bool:
    """Whether all of it could be compiled."""
    sys.dont_write_bytecode = True
    most = re.compile(f"/site-packages/{re.escape(package)}/") if package else None
    well = compileall.compile_dir(folder, quiet=1, force=True, rx=most, invalidation_mode=UNCHECKED)
    if not package:
        return bool(well)
    importlib.import_module(module)
    used = [found for name, found in sorted(sys.modules.items()) if name.split(".")[0] == package]
    if not used:
        print(f"{module} loads nothing of {package}", file=sys.stderr)
        return False
    for one in used:
        if source := getattr(one, "__file__", None):
            well &= compileall.compile_file(
                source, quiet=1, force=True, invalidation_mode=UNCHECKED
            )
    return bool(well)


if __name__ == "__main__":
    sys.exit(not compiled(*sys.argv[1:]))
