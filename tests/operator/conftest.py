"""A local cluster for each test that asks for one."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.operator.local_clusters import FAKE, Local


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Local]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    if not os.environ.get("DYNAMO_TEST_REAL_NODE"):
        monkeypatch.setenv("DYNAMO_NODE_COMMAND", f"{sys.executable} {FAKE}")
    local = Local(tmp_path)
    try:
        yield local
    finally:
        local.end()
