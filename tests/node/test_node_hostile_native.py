"""Whatever bytes come to 7070: an answer, or a closed connection; the node keeps serving."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.node.node_processes import CLUSTER_ID, SECRET, Cluster, NodeProcess

from dynamo_core import wire
from dynamo_core.contexts import Keyring
from dynamo_core.frames import FRAME_BYTES_MAX, NO_DEADLINE, NO_RING, Frame, FrameReader, pack_frame
from dynamo_core.handshake import ROLE_CLIENT, ROLE_NODE, Caller, Identity
from dynamo_core.outcomes import Kind
from dynamo_core.wire import Code, Op, Operation, Type

STALL_S: Final = 10.0
HANDSHAKE_TIMEOUT_S: Final = 5.0
NODE_FRAMES: Final = [
    t for t in Type if Type.READ <= t < Type.OPERATION and t not in wire.FROM_CLIENTS
]


class Closed(Exception):
    """The node closed the connection."""


class Native:
    """A bare native connection."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        self._raw = socket.create_connection(("127.0.0.1", node.native_port), STALL_S)
        self._reader = FrameReader()
        self._reader.frame_bytes_max = FRAME_BYTES_MAX
        self._frames: list[Frame] = []
        self.proof = b""

    def close(self) -> None:
        self._raw.close()

    def send(self, data: bytes) -> None:
        with suppress(ConnectionError):
            self._raw.sendall(data)

    def frame(
        self, kind: int, payload: bytes, request_id: int = 1, remaining_ms: int = NO_DEADLINE
    ) -> None:
        self.send(pack_frame(kind, request_id, remaining_ms, NO_RING, payload))

    def receive(self) -> Frame:
        while not self._frames:
            try:
                chunk = self._raw.recv(1 << 16)
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise Closed
            self._frames = self._reader.feed(chunk)
        return self._frames.pop(0)

    def rest(self) -> list[Frame]:
        """All frames until the node closes; fails when it doesn't."""
        found = []
        with suppress(Closed):
            while True:
                found.append(self.receive())
        return found

    def shake(
        self,
        role: int = ROLE_CLIENT,
        name: str = "stranger",
        number: int = 77,
        incarnation: bytes = b"",
        secret: str = SECRET,
    ) -> Caller:
        """The whole handshake; raises Closed when it is refused."""
        keyring = Keyring(1, {1: bytes.fromhex(secret)})
        identity = Identity(
            bytes.fromhex(CLUSTER_ID), name, number, incarnation or os.urandom(8), keyring
        )
        caller = Caller(identity, self._node.name, os.urandom(16), role)
        self.frame(Type.HELLO, caller.hello(), 0)
        challenge = self.receive()
        assert challenge.type == Type.CHALLENGE, challenge
        if role == ROLE_NODE:
            self.proof = caller.challenge(challenge.payload)
            self.frame(Type.PROOF, self.proof, 0)
        answer = self.receive()
        if answer.type in (Type.REFUSED, Type.REPLACED):
            raise Closed(answer.payload.decode())
        assert answer.type == Type.WELCOME, answer
        return caller


@pytest.fixture
def native(cluster: Cluster) -> Iterator[Native]:
    connection = Native(cluster.nodes[0])
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def half_open(cluster: Cluster) -> Iterator[tuple[float, list[Native]]]:
    """Connections that say nothing, or stop in mid-handshake; opened before all tests."""
    began = time.monotonic()
    connections = [Native(cluster.nodes[0]) for _ in range(30)]
    keyring = Keyring(1, {1: bytes.fromhex(SECRET)})
    me = Identity(bytes.fromhex(CLUSTER_ID), "half", 78, os.urandom(8), keyring)
    hello = Caller(me, cluster.nodes[0].name, os.urandom(16)).hello()
    packed = pack_frame(Type.HELLO, 0, NO_DEADLINE, NO_RING, hello)
    for at, connection in enumerate(connections[10:]):
        connection.send(packed[: 1 + at * 10] if at < 10 else packed)
    yield began, connections
    for connection in connections:
        connection.close()


@pytest.fixture(autouse=True)
def _opened_first(half_open: object) -> None:
    """So that they have waited long enough when their test comes, as the last but one."""


def _node_name(cluster: Cluster) -> tuple[int, bytes]:
    assert cluster.ring is not None
    return cluster.ring.name


# Before the handshake


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=3))
@example([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
@example([b"\x00\x00\x00\x00"])
@example([b"\xff\xff\xff\xff"])
def test_random_bytes_end_the_connection_or_wait_for_more(
    cluster: Cluster, parts: list[bytes]
) -> None:
    with closing(Native(cluster.nodes[0])) as native:
        for part in parts:
            native.send(part)
        with suppress(OSError):  # it may be closed already
            native._raw.shutdown(socket.SHUT_WR)
        assert native.rest() == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 255).filter(lambda t: t != Type.HELLO), st.binary(max_size=80))
@example(Type.OPERATION, wire.pack_operation(Operation(Op.PUT, b"early", value=b"v")))
@example(Type.WRITE, wire.pack_write(b"early", b"x", 0, 0, False))
@example(Type.PROOF, bytes(32))
def test_frames_before_the_handshake_end_the_connection(
    cluster: Cluster, kind: int, payload: bytes
) -> None:
    with closing(Native(cluster.nodes[0])) as native:
        native.frame(kind, payload)
        assert native.rest() == []


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120))
def test_random_hellos_are_refused_with_a_reason(cluster: Cluster, payload: bytes) -> None:
    with closing(Native(cluster.nodes[0])) as native:
        native.frame(Type.HELLO, payload)
        [refused] = native.rest()
        assert refused.type == Type.REFUSED
        assert refused.payload


@pytest.mark.parametrize("length", [4097, 1 << 20, FRAME_BYTES_MAX, 2**32 - 1])
def test_a_stranger_may_not_announce_long_frames(native: Native, length: int) -> None:
    native.send(length.to_bytes(4, "big") + bytes(40))
    assert native.rest() == []


def test_nothing_is_heard_after_a_refusal(cluster: Cluster) -> None:
    """What follows a refused hello in the same packet meets a closed door, not a half-open one."""
    other = Identity(b"\x12" * 16, "stranger", 77, os.urandom(8), Keyring(1, {1: bytes(32)}))
    hello = Caller(other, cluster.nodes[0].name, os.urandom(16)).hello()
    with closing(Native(cluster.nodes[0])) as native:
        native.send(
            pack_frame(Type.HELLO, 0, NO_DEADLINE, NO_RING, hello)
            + pack_frame(Type.PROOF, 0, NO_DEADLINE, NO_RING, bytes(32))
            + pack_frame(Type.HELLO, 0, NO_DEADLINE, NO_RING, hello)
        )
        [refused] = native.rest()
        assert b"this node is of cluster" in refused.payload


def test_a_second_guess_at_the_proof_is_not_heard(cluster: Cluster) -> None:
    keyring = Keyring(1, {1: bytes.fromhex(SECRET)})
    me = Identity(bytes.fromhex(CLUSTER_ID), "stranger", 77, os.urandom(8), keyring)
    caller = Caller(me, cluster.nodes[0].name, os.urandom(16))
    with closing(Native(cluster.nodes[0])) as native:
        native.frame(Type.HELLO, caller.hello(), 0)
        right = caller.challenge(native.receive().payload)
        native.send(
            pack_frame(Type.PROOF, 0, NO_DEADLINE, NO_RING, bytes(32))
            + pack_frame(Type.PROOF, 0, NO_DEADLINE, NO_RING, right)
        )
        assert [f.type for f in native.rest()] == [Type.REFUSED]


# Who may say what


def test_a_node_without_the_key_is_refused(native: Native) -> None:
    with pytest.raises(Exception, match="doesn't know the cluster key"):
        native.shake(ROLE_NODE, secret="00" * 32)


def test_a_replayed_handshake_is_refused(cluster: Cluster) -> None:
    with closing(Native(cluster.nodes[0])) as first:
        caller = first.shake(ROLE_NODE)
    with closing(Native(cluster.nodes[0])) as again:
        again.frame(Type.HELLO, caller.hello(), 0)
        again.frame(Type.PROOF, first.proof, 0)
        said = again.rest()
        assert [f.type for f in said] == [Type.CHALLENGE, Type.REFUSED]
        assert b"proof of the cluster key is wrong" in said[1].payload


def test_an_incarnation_that_was_replaced_is_refused(cluster: Cluster) -> None:
    """A disk rolled back to an older snapshot, or a process that was thought dead."""
    old, new = os.urandom(8), os.urandom(8)
    for incarnation in (old, old, new):
        with closing(Native(cluster.nodes[0])) as native:
            native.shake(ROLE_NODE, "node-88", 88, incarnation)
            native.frame(Type.PING, b"")  # who only proves itself may have ended since
            native.receive()
    with closing(Native(cluster.nodes[0])) as native, pytest.raises(Closed, match="been replaced"):
        native.shake(ROLE_NODE, "node-88", 88, old)
    with closing(Native(cluster.nodes[0])) as native:
        native.shake(ROLE_NODE, "node-88", 88, new)


@pytest.mark.parametrize("kind", NODE_FRAMES, ids=lambda t: t.name)
def test_a_client_may_not_send_node_frames(native: Native, kind: Type) -> None:
    native.shake(ROLE_CLIENT)
    native.frame(kind, wire.pack_write(b"client", b"x", 0, 0, False))
    assert native.rest() == []


def test_a_client_may_not_prove_itself_into_a_node(native: Native) -> None:
    native.shake(ROLE_CLIENT)
    native.frame(Type.PROOF, bytes(32))
    assert native.rest() == []


# After the handshake


def test_operations_of_a_client(cluster: Cluster, native: Native) -> None:
    native.shake(ROLE_CLIENT)
    native.frame(Type.OPERATION, wire.pack_operation(Operation(Op.PUT, b"native", value=b"v")), 5)
    written = native.receive()
    assert (written.type, written.request_id) == (Type.OPERATION_REPLY, 5)
    assert wire.unpack_outcome(written.payload).kind == Kind.WRITTEN
    native.frame(Type.OPERATION, wire.pack_operation(Operation(Op.GET, b"native")), 6)
    outcome = wire.unpack_outcome(native.receive().payload)
    assert (outcome.kind, outcome.siblings[0].value) == (Kind.VALUES, b"v")
    native.frame(Type.CLUSTER, b"", 7)
    assert cluster.ring is not None
    assert native.receive().payload == cluster.ring.to_bytes()


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        (Operation(Op.PUT, b"", value=b"v"), Kind.BAD_REQUEST),
        (Operation(Op.PUT, b"k" * 1025, value=b"v"), Kind.TOO_LARGE),
        (Operation(Op.PUT, b"k", value=bytes((1 << 20) + 1)), Kind.TOO_LARGE),
        (Operation(Op.PUT, b"k", quorum=4, value=b"v"), Kind.BAD_REQUEST),
        (Operation(Op.GET, b"k", quorum=255), Kind.BAD_REQUEST),
        (Operation(Op.PUT, b"k", context="forged", value=b"v"), Kind.BAD_REQUEST),
        (Operation(Op.PUT, b"k", content_type="a\r\nb", value=b"v"), Kind.BAD_REQUEST),
        (Operation(Op.DELETE, b"k", context="é"), Kind.BAD_REQUEST),
    ],
    ids=lambda v: v.name if isinstance(v, Kind) else None,
)
def test_operations_that_are_refused(native: Native, operation: Operation, kind: Kind) -> None:
    native.shake(ROLE_CLIENT)
    native.frame(Type.OPERATION, wire.pack_operation(operation))
    outcome = wire.unpack_outcome(native.receive().payload)
    assert outcome.kind == kind
    assert outcome.detail


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=5), st.data())
def test_random_operations_get_an_answer_each(
    cluster: Cluster, payloads: list[bytes], data: st.DataObject
) -> None:
    good = wire.pack_operation(Operation(Op.PUT, b"near", context="x", value=b"v"))
    with closing(Native(cluster.nodes[0])) as native:
        native.shake(ROLE_CLIENT)
        for at, payload in enumerate(payloads):
            if data.draw(st.booleans()):  # a near miss gets further
                payload = good[: len(good) // 2] + payload
            native.frame(Type.OPERATION, payload, at)
        for _ in payloads:
            frame = native.receive()
            assert frame.type in (Type.ERROR, Type.OPERATION_REPLY)
            assert frame.request_id < len(payloads)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 255),
    st.binary(max_size=80),
    st.booleans(),
    st.sampled_from([0, 1, 1000, NO_DEADLINE]),
)
@example(Type.PING, b"[" * 50_000, True, 1000)
@example(Type.PING, b'{"epoch": 1e999}', True, 1000)
@example(Type.RING, b"[" * 50_000, True, 1000)
@example(Type.RING, b"{}", True, 1000)
@example(Type.LEASE, wire.pack_lease(wire.Lease(1, bytes(8), 0, 1)), True, 1000)
@example(Type.READ, b"\x01", True, 1000)
@example(Type.INSPECT, b"\x00\x00\x00\x01", True, 1000)
@example(Type.INSPECT, b"\xff\xff\xff\xffkey", False, 1000)
@example(Type.FIGURES, b"more than is asked for", True, 1000)
@example(Type.WRITE, wire.pack_write(b"k", b"no object", 0, 0, True), True, 1000)
@example(Type.WRITE, wire.pack_write(b"k", b"no object", 3, 0, True), True, 1000)
@example(Type.FORWARD, wire.pack_operation(Operation(Op.PUT, b"")), True, 1000)
def test_random_frames_of_a_proven_node(
    cluster: Cluster, kind: int, payload: bytes, right_ring: bool, remaining_ms: int
) -> None:
    """A peer of a later version, or one with broken memory: it is answered or cut off."""
    if kind == Type.READ:
        payload = payload or b"\x00"
    ring = _node_name(cluster) if right_ring else NO_RING
    with closing(Native(cluster.nodes[1])) as native:
        native.shake(ROLE_NODE)
        native.send(pack_frame(kind, 9, remaining_ms, ring, payload))
        native.send(pack_frame(Type.PING, 10, 1000, ring, b"{}"))
        with suppress(Closed):
            while native.receive().request_id != 10:
                pass
    with closing(Native(cluster.nodes[1])) as native:
        native.shake(ROLE_CLIENT)


def test_schedule_18_an_expired_request_is_dropped_before_it_is_decoded(
    cluster: Cluster, native: Native
) -> None:
    native.shake(ROLE_CLIENT)
    native.frame(Type.OPERATION, b"not an operation", 1, remaining_ms=0)
    native.frame(Type.OPERATION, b"not an operation", 2, remaining_ms=1000)
    late, live = native.receive(), native.receive()
    assert wire.unpack_error(late.payload)[0] == Code.EXPIRED
    assert wire.unpack_error(live.payload)[0] == Code.BAD_REQUEST
    put = wire.pack_operation(Operation(Op.PUT, b"expired", value=b"v"))
    native.frame(Type.OPERATION, put, 3, remaining_ms=0)
    assert wire.unpack_error(native.receive().payload)[0] == Code.EXPIRED
    assert cluster.nodes[0].get(b"expired").status == 404


def test_a_client_that_does_not_read_is_not_read_from_for_ever(cluster: Cluster) -> None:
    """Its answers pile up to a bound; the others are served meanwhile."""
    node = cluster.nodes[0]
    node.put(b"large", bytes(1 << 20), w=3)
    with closing(Native(node)) as native:
        native.shake(ROLE_CLIENT)
        get = pack_frame(
            Type.OPERATION, 1, 5000, NO_RING, wire.pack_operation(Operation(Op.GET, b"large"))
        )
        native._raw.settimeout(0.2)
        with suppress(TimeoutError):
            for _ in range(100):
                native._raw.sendall(get)
        for at in range(10):
            assert node.put(b"others", b"%d" % at).status == 204
    with closing(Native(node)) as native:
        native.shake(ROLE_CLIENT)


def test_connections_that_stop_in_mid_handshake_are_ended(
    half_open: tuple[float, list[Native]],
) -> None:
    began, connections = half_open
    for connection in connections:
        said = connection.rest()
        assert [f.type for f in said] in ([], [Type.CHALLENGE])
    assert time.monotonic() - began >= HANDSHAKE_TIMEOUT_S - 0.5
