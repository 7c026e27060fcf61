"""The native protocol's cell: real nodes under the generator of our own."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from bench.contender import GET, PUT
from bench.errors import BenchError
from bench.figures import Sample
from bench.h2load import Totals
from bench.native import NAME, Native, Stream
from bench.processes import Children
from bench.report import Report, to_json, to_markdown
from bench.store import Store
from tests.bench.patience import measured


def test_totals_are_the_last_line() -> None:
    stream = Stream("http://n", 1, "p")
    text = 'a warning\n{"started": 3, "succeeded": 2, "failed": 1, "data_bytes": 9}\n'
    assert stream.totals(text) == Totals(3, 2, 1, 9)
    for text in ("", "Traceback ...", "{}"):
        with pytest.raises(BenchError, match="printed no totals"):
            stream.totals(text)


def test_it_is_bounded_by_a_time() -> None:
    with pytest.raises(ValueError):
        Stream("http://n", 1, "p").command(Path("log"), requests=5)


def sample(contender: str, rate: float, cpu: float = 0.1, rest: float = 0.0) -> Sample:
    servers = {f"node-{number}": 0.3 for number in range(3)}
    return Sample(contender, "get", 16, 1, 9, rate, 1.5, 1.25, 7.0, 1, cpu, servers, rest)


def test_the_report_states_what_the_generator_took() -> None:
    samples = [sample("store", 2000), sample(NAME, 3000, cpu=0.3), sample("etcd", 1000)]
    report = Report("store", "etcd", "now", {}, samples, NAME)
    text = to_markdown(report)
    row = "| get, 16 | 3.00x | 3.00-3.00 | 1.50x | 3,000 | 1.50 | 1.25 | 7.00 | 0.30 (25%) |"
    assert row in text
    assert text.index("Requests per second, store against etcd") < text.index(row)
    assert f"| get, 16 | {NAME} | 0.30 | 0.30 + 0.30 | 0.30 | 0.00 |" in text
    assert '"native_rows": [' in to_json(report)
    busy = replace(report, samples=[*samples[:1], sample(NAME, 9, rest=0.9), samples[2]])
    assert "in 1 of 3 cells" in busy.disturbed
    assert "The native protocol" not in to_markdown(replace(report, native=""))


@pytest.mark.skipif(
    not (shutil.which("h2load") and importlib.util.find_spec("rocksdict")),
    reason="needs Debian's nghttp2-client and the node's dependencies",
)
def test_real_nodes_under_every_operation(tmp_path: Path) -> None:
    with Children() as children:
        store = Store(children, tmp_path, tmp_path, b"v" * 1024, 60, [PUT, GET])
        store.start()
        native = Native(store)
        native.start()
        for operation in (PUT, GET):
            done = measured(children, native.load, tmp_path, operation, 4)
            assert done.requests > 0
            assert 0 < done.p50_ms <= done.p99_ms
            assert done.generators == 1
            assert done.cpu_generator > 0
            assert len(done.cpu_servers) == 3
