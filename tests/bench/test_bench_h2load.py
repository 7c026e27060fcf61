"""h2load's command line, summary and log, read from text that it printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.errors import BenchError
from bench.h2load import Logged, Stream, Totals, command, parse_log, parse_summary

SUMMARY = """\
starting benchmark...
spawning thread #0: 4 total client(s). Timing-based test with 0s of warm-up time and 1s of main \
duration for measurements.
Main benchmark duration is over for thread #0. Stopping all clients.

finished in 1.00s, 16183.00 req/s, 18.18MB/s
requests: 16183 total, 16187 started, 16183 done, 16183 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 16183 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 18.18MB (19063574) total, 1.84MB (1925896) headers (space savings 0.00%), \
15.80MB (16572416) data
                     min         max         mean         sd        +/- sd
time for request:      112us      1.85ms       245us        93us    72.79%
"""


def test_summary_of_a_clean_run() -> None:
    assert parse_summary(SUMMARY) == Totals(
        started=16187, succeeded=16183, failed=0, data_bytes=16572416
    )


@pytest.mark.parametrize(
    ("counts", "failed"),
    [
        ("3 total, 3 started, 3 done, 0 succeeded, 3 failed, 0 errored, 0 timeout", 3),
        ("5 total, 5 started, 5 done, 3 succeeded, 0 failed, 2 errored, 0 timeout", 2),
        ("5 total, 5 started, 4 done, 4 succeeded, 0 failed, 0 errored, 1 timeout", 2),
        ("9 total, 0 started, 0 done, 0 succeeded, 0 failed, 0 errored, 0 timeout", 9),
    ],
)
def test_whatever_did_not_succeed_has_failed(counts: str, failed: int) -> None:
    text = f"requests: {counts}\ntraffic: 0B (0) total, 0B (0) headers, 0B (0) data\n"
    assert parse_summary(text).failed == failed


@pytest.mark.parametrize("text", ["", "cannot open the file", SUMMARY.split("traffic")[0]])
def test_no_summary_is_an_error_with_the_last_words(text: str) -> None:
    with pytest.raises(BenchError, match="no summary"):
        parse_summary(text)


def test_log_rows_become_ends() -> None:
    lines = ["1795254049978851\t204\t840", "1795254049979721\t503\t902\tlater column\n"]
    assert parse_log(lines) == [
        Logged(1795254049979691, 204, 840),
        Logged(1795254049980623, 503, 902),
    ]


@pytest.mark.parametrize("line", ["", "1\t2", "a\t200\t5", "1 200 5"])
def test_a_broken_log_row_is_named(line: str) -> None:
    with pytest.raises(BenchError, match="line 2"):
        parse_log(["1\t200\t5", line])


def test_a_put_over_http_1() -> None:
    stream = Stream(
        target="/tmp/uris",
        target_is_list=True,
        connections=16,
        body=Path("/tmp/body"),
        method="PUT",
        headers=("a: b",),
        http1=True,
    )
    argv = command(stream, Path("/tmp/log"), duration_ms=1500)
    assert argv[0] == "h2load"
    assert argv[argv.index("-m") + 1] == "1", "requests in flight are the connections"
    assert argv[argv.index("-D") + 1] == "1500ms"
    assert argv[argv.index("-d") + 1] == "/tmp/body"
    assert ":method: PUT" in argv
    assert "a: b" in argv
    assert "--h1" in argv
    assert argv[-2:] == ["-i", "/tmp/uris"]


def test_a_get_by_number_over_http_2() -> None:
    argv = command(Stream("http://h/", 2), Path("/tmp/log"), requests=7)
    assert argv[argv.index("-n") + 1] == "7"
    assert argv[-1] == "http://h/"
    assert not {"-D", "-d", "-i", "--h1", "-H"} & set(argv)


@pytest.mark.parametrize("bounds", [{}, {"duration_ms": 1, "requests": 1}])
def test_a_run_has_exactly_one_bound(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        command(Stream("http://h/", 1), Path("/tmp/log"), **bounds)
