"""What the docs name is there: tests by their functions or files, and links between pages."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


@pytest.fixture(scope="module")
def names() -> set[str]:
    found: set[str] = set()
    for folder in ("tests", "e2e"):
        for path in ROOT.glob(f"{folder}/**/test_*.py"):
            found |= {path.stem, *re.findall(r"def (test_\w+)\(", path.read_text())}
    return found


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_tests_that_a_page_names_exist(page: Path, names: set[str]) -> None:
    assert set(re.findall(r"\btest_\w*[a-z0-9]", page.read_text())) <= names


def links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "#", "mailto:")):
            yield target.split("#")[0]


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    assert [one for one in links(page) if not (page.parent / one).exists()] == []
