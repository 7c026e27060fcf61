"""The images: what goes into them, and that they fit the pods that are built here."""

import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.operator.programs import ROOT, loaded

from dynamo_operator.kube import names, pods

IMAGES = {"node": "node/Dockerfile", "operator": "operator/Dockerfile"}


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    return loaded("lock_subset")


def lines(image: str) -> list[str]:
    return (ROOT / IMAGES[image]).read_text().replace("\\\n", " ").splitlines()


def told(image: str, instruction: str) -> list[str]:
    """What an image's last stage says with an instruction."""
    last = "\n".join(lines(image)).rsplit("\nFROM ", 1)[1]
    return re.findall(rf"^{instruction} (.*)$", last, flags=re.MULTILINE)


def packages(text: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", text, flags=re.MULTILINE))


def needed(requirement: str) -> set[str]:
    """A package and all that it needs on this machine, as the installed ones say it."""
    found: set[tuple[str, str]] = set()
    left = [Requirement(requirement)]
    while left:
        one = left.pop()
        for extra in ("", *sorted(one.extras)):
            name = canonicalize_name(one.name)
            if (name, extra) in found:
                continue
            found.add((name, extra))
            left += [
                more
                for more in map(Requirement, metadata.requires(name) or ())
                if more.marker is None or more.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in found}


@pytest.mark.parametrize("what", ["node", "operator", "--build"])
def test_the_lock_of_an_image_lacks_nothing_and_has_no_tools(lock: ModuleType, what: str) -> None:
    text = lock.subset(what)
    wanted = "hatchling" if what == "--build" else f"dynamo-store[{what}]"
    assert needed(wanted) - {"dynamo-store"} <= packages(text)
    assert not {"pytest", "mypy", "ruff", "hypothesis"} & packages(text)
    assert ("rocksdict" in packages(text)) == (what == "node")
    assert ("pyyaml" in packages(text)) == (what == "operator")
    whole = (ROOT / "requirements.lock").read_text()
    for block in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE):
        assert block in whole, "nothing is rewritten"
        assert not block or "--hash=sha256:" in block


def test_who_asked_for_a_package_is_followed_to_the_end(lock: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project.optional-dependencies]\nnode = ["A.b>=1", "e; python_version < \'4\'"]\n'
        'other = ["gone"]\n'
    )
    (tmp_path / "requirements.lock").write_text(
        "# made by make lock\n"
        "a-b==1 \\\n    --hash=sha256:1\n    # via x (pyproject.toml)\n"
        "c==2 \\\n    --hash=sha256:2\n    # via d\n"
        "d==3 ; sys_platform == 'linux' \\\n    --hash=sha256:3\n"
        "    # via\n    #   a-b\n    #   f\n"
        "e==4\n    # via\n    #   x (pyproject.toml)\n    #   f\n"
        "f==5\n    # via g\n"
    )
    assert packages(lock.subset("node", tmp_path)) == {"a-b", "c", "d", "e"}
    with pytest.raises(KeyError, match=r"gone: not in requirements\.lock \(`make lock`\)"):
        lock.subset("other", tmp_path)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_fits_the_pods_security(image: str) -> None:
    assert told(image, "USER") == [f"{pods.USER}:{pods.USER}"]
    assert told(image, "RUN") == [], "what is installed belongs into the first stage"
    assert not any(line.startswith("ADD ") for line in lines(image))


def test_a_node_image_shows_the_pods_ports() -> None:
    ports = (names.HTTP_PORT, names.NATIVE_PORT, names.ADMIN_PORT)
    assert told("node", "EXPOSE") == [" ".join(map(str, ports))]


@pytest.mark.parametrize(
    ("image", "commands"),
    [("node", {"dynamo-node"}), ("operator", {"dynamo-operator", "dynamo", "kubectl-dynamo"})],
)
def test_an_image_has_the_commands_whose_dependencies_it_has(
    image: str, commands: set[str]
) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (removed,) = re.findall(r"&& rm ([^&]*)", "\n".join(lines(image)))
    assert commands == set(scripts) - {Path(path).name for path in removed.split()}
    assert told(image, "ENTRYPOINT") == [f'["dynamo-{image}"]']


@pytest.mark.parametrize("image", IMAGES)
def test_the_builds_context_has_what_is_copied(image: str) -> None:
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    assert rules[0] == "*"
    copied = [line.split()[1:-1] for line in lines(image) if line.startswith("COPY ")]
    for source in (source for sources in copied for source in sources):
        if source.startswith("--from=") or source == "/opt/dynamo":
            continue
        assert (ROOT / source).exists()
        assert any(fnmatch(source, rule) for rule in kept), source


def test_bytecode_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    """Also of what an interpreter had compiled by itself before, by the source's time."""
    script = ROOT / "scripts/precompile.py"
    made = []
    for at in (1_000_000_000, 1_700_000_000):
        source = tmp_path / "site-packages" / "store.py"
        source.parent.mkdir(exist_ok=True)
        source.write_text("HELD = 1\n")
        os.utime(source, (at, at))
        subprocess.run([sys.executable, "-c", "import store"], cwd=source.parent, check=True)
        subprocess.run([sys.executable, script, source.parent], check=True)
        (compiled,) = (source.parent / "__pycache__").iterdir()
        made.append(compiled.read_bytes())
    assert made[0] == made[1]
    assert made[0][4:8] == b"\x01\0\0\0", "by the source's hash, which nobody checks again"
