"""Inbound: clients can't take the connections that nodes need to reach each other."""

import socket
from typing import Any, cast

import pytest

from dynamo_core.contexts import Keyring
from dynamo_core.frames import NO_DEADLINE, NO_RING, FrameReader, pack_frame
from dynamo_core.handshake import Caller, ClientCaller, Identity
from dynamo_core.wire import Type
from dynamo_node import inbound
from dynamo_node.inbound import Inbound

pytestmark = pytest.mark.timeout(20)

KEYRING = Keyring(1, {1: b"k" * 32})
ME = Identity(b"c" * 16, "me", 1, b"incarn-1", KEYRING)
PEER = Identity(b"c" * 16, "peer", 2, b"incarn-2", KEYRING)


class _Service:
    def __init__(self) -> None:
        self.spoke: list[Any] = []
        self.handled: list[int] = []

    def handle(self, caller: Inbound, frame: Any) -> None:
        self.handled.append(frame.type)

    def identity(self) -> Identity:
        return ME

    def nonce(self) -> bytes:
        return bytes(16)

    def ring_name(self) -> Any:
        return NO_RING

    def is_replaced(self, number: int, name: str, incarnation: bytes) -> bool:
        return False

    def peer_spoke(self, hello: Any) -> None:
        self.spoke.append(hello.incarnation)

    def peer_called(self, hello: object) -> None:
        pass

    def client_frame_bytes_max(self) -> int:
        return 1 << 20


class _Transport:
    def __init__(self) -> None:
        self.reader = FrameReader()
        self.said: list[int] = []
        self.options: dict[tuple[int, int], int] = {}

    def write(self, data: bytes) -> None:
        self.frames = self.reader.feed(data)
        self.said += [frame.type for frame in self.frames]

    def get_extra_info(self, name: str) -> Any:
        return self if name == "socket" else None

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options[level, option] = value

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def close(self) -> None:
        pass

    abort = close


def _greeted(connections: set[Inbound], hello: bytes) -> list[int]:
    """The types of the frames that answer a HELLO on a new connection."""
    connection = Inbound(cast(Any, _Service()), connections)
    transport = _Transport()
    connection.connection_made(cast(Any, transport))
    connection.data_received(pack_frame(Type.HELLO, 0, NO_DEADLINE, NO_RING, hello))
    connection._flush()
    return transport.said


async def test_a_node_is_welcome_where_clients_fill_their_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbound, "CLIENTS_MAX", 3)
    connections: set[Inbound] = set()
    client = ClientCaller("client", "me", b"n" * 16).hello()
    said = [_greeted(connections, client) for _ in range(4)]
    assert said == [[Type.CHALLENGE, Type.WELCOME]] * 3 + [[Type.REFUSED]]
    assert _greeted(connections, Caller(PEER, "me", b"n" * 16).hello()) == [Type.CHALLENGE]
    assert inbound.CONNECTIONS_MAX > 4096, "and there is room for nodes beside all clients"


async def test_a_client_that_goes_dark_is_noticed_by_the_kernel() -> None:
    connection, transport = Inbound(cast(Any, _Service()), set()), _Transport()
    connection.connection_made(cast(Any, transport))
    assert transport.options[socket.SOL_SOCKET, socket.SO_KEEPALIVE] == 1
    assert transport.options[socket.IPPROTO_TCP, socket.TCP_KEEPIDLE] <= 300
    assert connection._timer is not None
    connection._timer.cancel()


async def test_a_proof_alone_makes_no_incarnation_the_newest() -> None:
    # It may be late, from a process that has ended: who lives goes on after its welcome.
    service, transport = _Service(), _Transport()
    connection = Inbound(cast(Any, service), set())
    connection.connection_made(cast(Any, transport))
    caller = Caller(PEER, "me", b"n" * 16)

    def say(kind: int, payload: bytes) -> None:
        connection.data_received(pack_frame(kind, 0, NO_DEADLINE, NO_RING, payload))
        connection._flush()

    say(Type.HELLO, caller.hello())
    say(Type.PROOF, caller.challenge(transport.frames[0].payload))
    assert transport.said == [Type.CHALLENGE, Type.WELCOME]
    assert service.spoke == []
    say(Type.PING, b"")
    say(Type.PING, b"")
    assert service.spoke == [PEER.incarnation]
    assert service.handled == [Type.PING] * 2


async def test_a_connected_client_may_send_longer_values_as_soon_as_the_limit_allows_them() -> None:
    service = _Service()
    bounds = [1 << 20]
    service.client_frame_bytes_max = lambda: bounds[0]  # type: ignore[method-assign]
    client, peer = (Inbound(cast(Any, service), set()) for _ in range(2))
    for connection, hello in (
        (client, ClientCaller("client", "me", b"n" * 16).hello()),
        (peer, Caller(PEER, "me", b"n" * 16).hello()),
    ):
        connection.connection_made(cast(Any, _Transport()))
        connection.data_received(pack_frame(Type.HELLO, 0, NO_DEADLINE, NO_RING, hello))
    before = peer.reader.frame_bytes_max
    for bound, allowed in ((4 << 20, 4 << 20), (1 << 10, 4 << 20)):
        bounds[0] = bound
        client.limits_changed()
        peer.limits_changed()
        assert client.reader.frame_bytes_max == allowed, "what is on its way isn't cut off"
        assert peer.reader.frame_bytes_max == before
