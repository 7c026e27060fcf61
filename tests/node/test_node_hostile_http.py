"""Whatever bytes a client sends to 8080: a clear 4xx, or a closed connection; never a dead node.

Everything here goes through a bare socket, so that no client library tidies
up what is sent. A stall counts as a failure: every socket has a timeout.
"""

import json
import re
import socket
from contextlib import closing, suppress
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.node.node_processes import Cluster, Connection

STALL_S: Final = 10.0
QUIET_S: Final = 0.03
_STATUS: Final = re.compile(rb"HTTP/\d\.\d (\d{3}) ")


def _exchange(port: int, parts: list[bytes], end: bool = True) -> bytes:
    """Send each part in a packet of its own and read until the other side closes.

    With `end`, this side says that no more comes as soon as nothing more has
    been answered for QUIET_S; without it, the other side has to close.
    """
    received = bytearray()
    with closing(socket.create_connection(("127.0.0.1", port), STALL_S)) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for part in parts:
                raw.sendall(part)
            if end:
                raw.settimeout(QUIET_S)
                with suppress(TimeoutError):
                    while chunk := raw.recv(1 << 16):
                        received += chunk
                raw.settimeout(STALL_S)
                raw.shutdown(socket.SHUT_WR)
            while chunk := raw.recv(1 << 16):
                received += chunk
        except TimeoutError:
            raise AssertionError(f"stalled; so far: {bytes(received[:500])!r}") from None
        except OSError:
            pass  # closed on us: fine
    return bytes(received)


def _answer(port: int, request: bytes) -> int:
    """The status of the first answer to `request`, on a connection that stays open."""
    with closing(socket.create_connection(("127.0.0.1", port), STALL_S)) as raw:
        with suppress(ConnectionError):
            raw.sendall(request)
        received = b""
        while True:
            head, divider, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            if divider and len(body) >= int(length[1] if length else 0):
                return _answers(received)[0][0]
            chunk = raw.recv(1 << 16)
            assert chunk, f"closed after {received!r}"
            received += chunk


def _answers(stream: bytes) -> list[tuple[int, bytes]]:
    """(status, body) of each answer in a stream, checked for form on the way."""
    found = []
    while stream:
        head, divider, stream = stream.partition(b"\r\n\r\n")
        match = _STATUS.match(head)
        assert match, f"not an HTTP answer: {head[:200]!r}"
        assert divider, f"an answer without an end of its headers: {head[:200]!r}"
        status = int(match[1])
        if status == 100:
            continue
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        size = int(length[1]) if length else 0
        body, stream = stream[:size], stream[size:]
        assert status < 500 or status == 503, (status, body)
        if status >= 400:
            assert b"application/problem+json" in head, head
            problem = json.loads(body)
            assert problem["status"] == status
            assert problem["detail"]
            assert "unforeseen" not in problem["detail"]
            assert "may or may not be carried out" not in problem["detail"], problem
        found.append((status, body))
    return found


def _statuses(cluster: Cluster, *parts: bytes) -> list[int]:
    return [s for s, _ in _answers(_exchange(cluster.nodes[0].http_port, list(parts)))]


# Grammar: mostly right requests, each with something wrong.

TARGETS = st.one_of(
    st.sampled_from(
        [
            *(b"/kv/h", b"/kv/%00", b"/kv/%", b"/kv/%4", b"/kv/%zz", b"/kv/a/b", b"/kv/", b"/kv"),
            *(b"/kv/h?r=2", b"/kv/h?r=0", b"/kv/h?timeout_ms=x", b"/kv/h?%ff=%fe", b"/kv/h?&&=&"),
            *(b"*", b"/", b"//", b"/cluster", b"/readyz", b"/healthz", b"http://x/kv/h", b"x:1"),
            *(b"/kv/\xff\xfe", b"/kv/\x00", b"/kv/a b", b"/kv/#f", b"/kv/" + b"%41" * 1025, b"?"),
        ]
    ),
    st.binary(max_size=30).map(lambda tail: b"/kv/" + tail),
    st.binary(max_size=20),
)
METHODS = st.sampled_from(
    [
        b"GET",
        b"PUT",
        b"PUT",
        b"DELETE",
        b"POST",
        b"OPTIONS",
        b"TRACE",
        b"CONNECT",
        b"get",
        b"",
        b"X",
    ]
)
VERSIONS = st.sampled_from(
    [b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP", b"", b"SIP/2.0"]
)
BODIES = st.sampled_from(
    [
        (b"Content-Length: 3\r\n", b"abc"),
        (b"Content-Length: 0\r\n", b""),
        (b"", b""),
        (b"", b"abc"),
        (b"Content-Length: 3\r\n", b"a"),
        (b"Content-Length: 3\r\n", b"abcdef"),
        (b"Content-Length: -1\r\n", b"abc"),
        (b"Content-Length: +3\r\n", b"abc"),
        (b"Content-Length: 3, 3\r\n", b"abc"),
        (b"Content-Length: 3\r\nContent-Length: 4\r\n", b"abcd"),
        (b"Content-Length: 99999999999999999999999\r\n", b"abc"),
        (b"Content-Length: 0x3\r\n", b"abc"),
        (b"Content-Length: 1073741824\r\n", b"abc"),
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"3;ext=1\r\nabc\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\nabc\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabcdef\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffffffff\r\nabc"),
        (b"Transfer-Encoding: chunked\r\n", b"-3\r\nabc\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc"),
        (b"Transfer-Encoding: gzip\r\n", b"abc"),
        (b"Transfer-Encoding: gzip, chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked, chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
        (b"Content-Encoding: gzip\r\nContent-Length: 3\r\n", b"abc"),
        (b"Expect: 100-continue\r\nContent-Length: 3\r\n", b"abc"),
        (b"Expect: something\r\nContent-Length: 3\r\n", b"abc"),
        (b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n", b"abc"),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", b"abc"),
    ]
)
HEADERS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(b"X-Dynamo-Context: x", b"X-Dynamo-Context: \xff\xfe", b"X-Dynamo-Context:"),
                *(b"X-Dynamo-Write-Id: zz", b"X-Dynamo-Write-Id: \xff", b"traceparent: 00-x"),
                *(b"Content-Type: a\x00b", b"Content-Type: \xff", b"Content-Type: " + b"x" * 300),
                *(b"Content-Type: application/vnd.dynamo.put+json", b"Accept: application/json"),
                *(
                    b"Connection: close",
                    b"Connection: keep-alive, close",
                    b"Host: \xff\x00",
                    b": x",
                ),
                *(b"No colon", b" folded: x", b"X: a\r\n b", b"A" * 9000 + b": x", b"X\x00: y"),
            ]
        ),
        st.tuples(st.binary(max_size=8), st.binary(max_size=12)).map(b": ".join),
    ),
    max_size=4,
)


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    framing, body = draw(BODIES)
    lines = draw(METHODS), draw(TARGETS), draw(VERSIONS)
    headers = b"".join(h + b"\r\n" for h in draw(HEADERS))
    return b" ".join(lines) + b"\r\nHost: x\r\n" + headers + framing + b"\r\n" + body


@settings(max_examples=250, deadline=None)
@given(st.lists(_requests(), min_size=1, max_size=3), st.lists(st.integers(0, 2000), max_size=4))
@example([b"CONNECT x:1 HTTP/1.1\r\n\r\nabc"], [])
@example([b"PUT /kv/h HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], [50])
def test_requests_with_something_wrong(
    cluster: Cluster, requests: list[bytes], cuts: list[int]
) -> None:
    """Alone, pipelined, in pieces, and cut off."""
    stream = b"".join(requests)
    places = sorted({0, *(c % (len(stream) + 1) for c in cuts)})
    parts = [stream[a:b] for a, b in zip(places, [*places[1:], len(stream)], strict=True)]
    if len(cuts) == 4:
        parts.pop()  # the end never comes
    _answers(_exchange(cluster.nodes[0].http_port, parts))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=200), max_size=3))
def test_random_bytes(cluster: Cluster, parts: list[bytes]) -> None:
    _answers(_exchange(cluster.nodes[0].http_port, parts))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 500), st.integers(0, 255), st.integers(0, 500))
def test_a_good_request_with_a_byte_changed_or_the_rest_missing(
    cluster: Cluster, at: int, byte: int, end: int
) -> None:
    good = (
        b"PUT /kv/good?w=2&timeout_ms=900 HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
        b"X-Dynamo-Write-Id: " + b"ab" * 16 + b"\r\nContent-Length: 5\r\n\r\nvalue"
        b"GET /kv/good HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    changed = bytearray(good)
    changed[at % len(good)] = byte
    _answers(_exchange(cluster.nodes[0].http_port, [bytes(changed)]))
    _answers(_exchange(cluster.nodes[0].http_port, [bytes(good[: end % len(good)])]))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["GET", "PUT", "DELETE"]),
    st.sampled_from(
        ["X-Dynamo-Context", "X-Dynamo-Write-Id", "Content-Type", "Accept", "traceparent"]
    ),
    st.binary(max_size=60).map(lambda b: b.translate(None, b"\r\n\x00")),
)
def test_hostile_header_values(cluster: Cluster, method: str, name: str, value: bytes) -> None:
    head = f"{method} /kv/header HTTP/1.1\r\nHost: x\r\n{name}: ".encode() + value
    for status in _statuses(cluster, head + b"\r\nContent-Length: 1\r\n\r\nv"):
        assert status in (200, 204, 300, 400, 404, 409)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=100))
def test_hostile_json_puts(cluster: Cluster, body: bytes) -> None:
    connection = Connection(cluster.nodes[0].http_port)
    kind = {"Content-Type": "application/vnd.dynamo.put+json"}
    connection.ask("PUT", "/kv/json", body, kind).problem(400, "bad-request")
    connection.close()


# What has a definite answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /kv/%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /kv/a/b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /kv/\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /kv/h HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), 400),  # a TLS client
        (b"PUT /kv/l HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\nv", 400),
        (b"PUT /kv/l HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\nv", 413),
        (b"PUT /kv/l HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /kv/" + b"k" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 413),
        (b"GET /kv/" + b"k" * 4_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 413),
        (b"GET /kv/h HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 413),
        (b"GET /kv/h HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", 400),
        (b"PUT /kv/l HTTP/1.1\r\nHost: x\r\nContent-Type: \x01\r\nContent-Length: 1\r\n\r\nv", 400),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else value,
)
def test_the_answer_to(cluster: Cluster, request_bytes: bytes, status: int) -> None:
    assert _answer(cluster.nodes[0].http_port, request_bytes) == status


def test_a_pipeline_is_answered_in_order(cluster: Cluster) -> None:
    put = b"PUT /kv/pipe?w=3 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv"
    get = b"GET /kv/pipe HTTP/1.1\r\nHost: x\r\n\r\n"
    bad = b"GET /kv/%zz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /kv/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    stream = _exchange(cluster.nodes[0].http_port, [put + get + bad + get + last], end=False)
    assert [status for status, _ in _answers(stream)] == [204, 200, 400, 200, 404]


def test_slow_and_unfinished_requests_hold_up_nobody(cluster: Cluster) -> None:
    """Two hundred clients that stop in mid-head or mid-body, while others go on."""
    node = cluster.nodes[0]
    slow = [socket.create_connection(("127.0.0.1", node.http_port), STALL_S) for _ in range(200)]
    try:
        for at, raw in enumerate(slow):
            head = b"PUT /kv/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"
            raw.sendall(head[: 10 + at % 60])
        for at in range(20):
            assert node.put(b"not slow", b"%d" % at, w=3).status == 204
        # One that goes on byte by byte is served like any other.
        rest = (
            b"PUT /kv/drip HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
        )
        drip = _exchange(node.http_port, [bytes((byte,)) for byte in rest], end=False)
        assert [status for status, _ in _answers(drip)] == [204]
    finally:
        for raw in slow:
            raw.close()
    assert node.get(b"slow").status == 404, "half a body is no value"


def test_a_client_that_leaves_before_its_answer(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    for _ in range(50):
        raw = socket.create_connection(("127.0.0.1", node.http_port), STALL_S)
        raw.sendall(b"PUT /kv/leave HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv")
        raw.close()
    assert node.put(b"stays", b"v").status == 204


@settings(max_examples=60, deadline=None)
@given(st.lists(_requests(), min_size=1, max_size=2))
def test_the_admin_port_is_as_hard_to_hurt(cluster: Cluster, requests: list[bytes]) -> None:
    stream = b"".join(requests).replace(b"/kv/", b"/admin/replica/")
    received = _exchange(cluster.nodes[1].admin_port, [stream])
    for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received):
        assert int(status) < 500 or int(status) == 503
