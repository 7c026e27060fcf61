"""etcd's messages byte by byte, the proofs, and a real three-node etcd when it is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bench.contender import GET, OVERWRITE, PUT
from bench.errors import BenchError
from bench.etcd import Etcd, check_gets, check_puts, put_body, range_body
from bench.h2load import Totals
from bench.processes import Children
from tests.bench.patience import measured


def test_put_is_key_and_value_after_the_grpc_prefix() -> None:
    assert put_body(b"k", b"vw") == b"\x00\x00\x00\x00\x07" + b"\x0a\x01k" + b"\x12\x02vw"


def test_long_values_have_a_length_in_two_bytes() -> None:
    body = put_body(b"key", b"x" * 1024)
    assert body[:5] == b"\x00\x00\x00\x04\x08"
    assert body[5:10] == b"\x0a\x03key"
    assert body[10:13] == b"\x12\x80\x08"
    assert len(body) == 5 + 0x408


def test_range_is_the_key_alone_so_linearizable() -> None:
    assert range_body(b"abc") == b"\x00\x00\x00\x00\x05\x0a\x03abc"


def totals(started: int, succeeded: int, data_bytes: int = 0) -> Totals:
    return Totals(started, succeeded, failed=0, data_bytes=data_bytes)


@pytest.mark.parametrize("revisions", [15, 16, 17])
def test_revisions_between_done_and_started_prove_the_puts(revisions: int) -> None:
    check_puts([totals(9, 8), totals(8, 7)], revisions)


@pytest.mark.parametrize("revisions", [14, 18])
def test_other_revisions_fail_the_cell(revisions: int) -> None:
    with pytest.raises(BenchError, match=f"rose by {revisions}"):
        check_puts([totals(9, 8), totals(8, 7)], revisions)


def test_gets_must_carry_their_values() -> None:
    check_gets([totals(3, 2, 2100)], 1024)
    with pytest.raises(BenchError, match="no value"):
        check_gets([totals(3, 2, 2047)], 1024)


@pytest.mark.skipif(
    not (shutil.which("etcd") and shutil.which("h2load")),
    reason="needs Debian's etcd-server and nghttp2-client",
)
def test_a_real_etcd_takes_and_serves_what_h2load_sends(tmp_path: Path) -> None:
    with Children() as children:
        etcd = Etcd(children, tmp_path, tmp_path, b"v" * 1024, keys=150)
        etcd.start()
        for operation, streams in ((PUT, 2), (OVERWRITE, 1), (GET, 1)):
            done = measured(children, etcd.load, tmp_path, operation, 2, streams)
            assert done.requests > 0
            assert 0 < done.p50_ms <= done.p99_ms
            assert len(done.cpu_servers) == 3
            assert sum(done.cpu_servers.values()) > 0
        pids = etcd.pids()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
