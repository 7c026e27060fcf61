"""A three-node etcd on loopback, loaded at its leader over gRPC.

Owns its processes, the two protobuf messages that h2load sends, and the proof
by revisions. h2load sees statuses only, never gRPC's trailers: that every put
was carried out is read from the store's revision before and after.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bench.contender import GET, Cell, Load
from bench.errors import BenchError, CannotStart
from bench.h2load import Stream, Totals
from bench.ports import free_ports
from bench.processes import Children, wait_until

NAME = "etcd"
PACKAGE = "etcd-server"
MEMBERS = 3
# Every put stays in etcd's history until a compaction, which a run never asks for.
QUOTA_BYTES = 8 * 2**30
_TXN_OPERATIONS = 100  # etcd takes 128 at most
_HEADERS = ("content-type: application/grpc", "te: trailers")


def put_body(key: bytes, value: bytes) -> bytes:
    """A gRPC message with etcdserverpb.PutRequest{key = 1, value = 2}."""
    return _grpc(_bytes_field(1, key) + _bytes_field(2, value))


def range_body(key: bytes) -> bytes:
    """A gRPC message with etcdserverpb.RangeRequest{key = 1}: one key, linearizable."""
    return _grpc(_bytes_field(1, key))


def _grpc(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def version() -> str:
    """Also the check that etcd is there."""
    if shutil.which("etcd") is None:
        raise CannotStart(f"etcd is not installed; on Debian: apt-get install {PACKAGE}")
    done = subprocess.run(
        ["etcd", "--version"], check=False, capture_output=True, text=True, timeout=10
    )
    return done.stdout.splitlines()[0].rpartition(":")[2].strip()


class Etcd:
    """The contender. ``data`` gets its data and logs, ``scratch`` the request bodies."""

    def __init__(
        self, children: Children, data: Path, scratch: Path, value: bytes, keys: int
    ) -> None:
        self._children = children
        self._data = data / NAME
        self._scratch = scratch
        self._value = value
        self._keys = keys
        self._version = version()
        self._members: dict[str, subprocess.Popen[str]] = {}
        self._ports: dict[str, int] = {}
        self._leader = ""

    @property
    def name(self) -> str:
        return NAME

    @property
    def versions(self) -> Mapping[str, str]:
        return {"etcd": self._version}

    def start(self) -> None:
        self._data.mkdir(parents=True)
        ports = free_ports(2 * MEMBERS)
        clients, peers = ports[:MEMBERS], ports[MEMBERS:]
        names = [f"etcd-{number}" for number in range(MEMBERS)]
        everyone = ",".join(
            f"{name}=http://127.0.0.1:{port}" for name, port in zip(names, peers, strict=True)
        )
        # Settings of the caller's own etcd must not leak into a comparison with the defaults.
        kept = {"ETCD_UNSUPPORTED_ARCH"}
        env = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_") or k in kept}
        for name, client, peer in zip(names, clients, peers, strict=True):
            argv = [
                "etcd",
                f"--name={name}",
                f"--data-dir={self._data / name}",
                f"--listen-client-urls=http://127.0.0.1:{client}",
                f"--advertise-client-urls=http://127.0.0.1:{client}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster={everyone}",
                "--initial-cluster-token=bench",
                "--initial-cluster-state=new",
                f"--quota-backend-bytes={QUOTA_BYTES}",
            ]
            self._members[name] = self._children.serve(argv, self._data / f"{name}.log", env)
        self._ports = dict(zip(names, clients, strict=True))
        wait_until(self._has_leader, self._members, self._data, "waiting for etcd's leader")
        self._preload()

    def pids(self) -> list[int]:
        return [member.pid for member in self._members.values()]

    def load(self, cell: Cell) -> Load:
        """A body holds its key, so each process asks for one key, again and again."""
        self._find_leader()
        gets = cell.operation == GET
        method, encode = ("Range", range_body) if gets else ("Put", self._put)
        streams = []
        for number in range(cell.streams):
            body = self._scratch / f"etcd-{number}"
            body.write_bytes(encode(_key(number)))
            streams.append(
                Stream(
                    target=f"http://127.0.0.1:{self._port}/etcdserverpb.KV/{method}",
                    connections=cell.connections // cell.streams,
                    body=body,
                    headers=_HEADERS,
                )
            )
        leader, before = self._leader, self._revision()

        def verify(totals: Sequence[Totals]) -> None:
            done = self._revision() - before
            self._find_leader()
            if self._leader != leader:
                raise BenchError(f"etcd's leader changed from {leader} to {self._leader} in a cell")
            if gets:
                check_gets(totals, len(self._value))
            else:
                check_puts(totals, done)

        others = {name: each.pid for name, each in self._members.items() if name != leader}
        servers = {leader: self._members[leader].pid, **others}
        return Load(tuple(streams), 200, servers, verify)

    def _put(self, key: bytes) -> bytes:
        return put_body(key, self._value)

    @property
    def _port(self) -> int:
        return self._ports[self._leader]

    def _has_leader(self) -> bool:
        try:
            self._find_leader()
        except (OSError, http.client.HTTPException, BenchError):
            return False
        return True

    def _find_leader(self) -> None:
        """The leader by the word of every member, or BenchError."""
        ids, leaders = {}, set()
        for name, port in self._ports.items():
            status = _call(port, "/v3/maintenance/status", {})
            ids[status["header"]["member_id"]] = name
            leaders.add(status.get("leader", "0"))
        if len(leaders) != 1 or not leaders <= ids.keys():
            raise BenchError(f"etcd's members name {len(leaders)} different leaders")
        self._leader = ids[leaders.pop()]

    def _revision(self) -> int:
        answer = _call(self._port, "/v3/kv/range", {"key": _text(_key(0))})
        return int(answer["header"]["revision"])

    def _preload(self) -> None:
        for first in range(0, self._keys, _TXN_OPERATIONS):
            numbers = range(first, min(first + _TXN_OPERATIONS, self._keys))
            puts = [
                {"request_put": {"key": _text(_key(number)), "value": _text(self._value)}}
                for number in numbers
            ]
            _call(self._port, "/v3/kv/txn", {"success": puts})
        answer = _call(
            self._port,
            "/v3/kv/range",
            {"key": _text(b"bench-"), "range_end": _text(b"bench."), "count_only": True},
        )
        if int(answer.get("count", "0")) != self._keys:
            raise BenchError(f"etcd holds {answer.get('count')} of {self._keys} preloaded keys")


def check_puts(totals: Sequence[Totals], revisions: int) -> None:
    """Every put makes one revision; those in flight at the end may or may not have made it."""
    succeeded = sum(one.succeeded for one in totals)
    started = sum(one.started for one in totals)
    if not succeeded <= revisions <= started:
        raise BenchError(
            f"etcd's revision rose by {revisions}, but h2load counts {succeeded} puts done and"
            f" {started} started: answers of status 200 carried errors"
        )


def check_gets(totals: Sequence[Totals], value_bytes: int) -> None:
    """An answer without a value (an error, a missing key) is shorter than the value."""
    succeeded = sum(one.succeeded for one in totals)
    received = sum(one.data_bytes for one in totals)
    if received < succeeded * value_bytes:
        raise BenchError(
            f"{succeeded} gets received {received} bytes, less than {value_bytes} each: some"
            " answers carried no value"
        )


def _key(number: int) -> bytes:
    return b"bench-%06d" % number


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _call(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One call of etcd's JSON gateway (never in a measured window)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, json.dumps(body))
        answer = connection.getresponse()
        raw = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"etcd answered {path} with {answer.status}: {raw[:300]!r}")
    return cast(dict[str, Any], json.loads(raw))
