"""What the tests of real clusters share: a way to say their figures."""

from collections.abc import Callable

import pytest

Tell = Callable[[str], None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Print a line whatever pytest captures: a run without its figures says little."""

    def told(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    told("")
    return told
