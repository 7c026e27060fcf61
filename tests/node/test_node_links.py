"""Links: only who has proven the cluster key is up, and everybody who waits is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from bench.ports import free_ports

from dynamo_core.contexts import Keyring
from dynamo_core.frames import NO_DEADLINE, NO_RING, Frame, FrameReader, pack_frame
from dynamo_core.handshake import Acceptor, Identity
from dynamo_core.ring import Member
from dynamo_core.wire import Type
from dynamo_node.alarms import Alarms
from dynamo_node.links import DROP_FACTOR, LOST, PAYLOAD_BYTES_MAX, Link

pytestmark = pytest.mark.timeout(20)

KEYRING = Keyring(1, {1: b"k" * 32})
ME = Identity(b"c" * 16, "me", 1, b"incarn-1", KEYRING)
PEER = Identity(b"c" * 16, "peer", 2, b"incarn-2", KEYRING)


def _frame(kind: Type, payload: bytes = b"", request_id: int = 0) -> bytes:
    return pack_frame(kind, request_id, NO_DEADLINE, NO_RING, payload)


@asynccontextmanager
async def _peer(
    answer: Callable[[Frame, asyncio.StreamWriter], None], me: Callable[[], Identity]
) -> AsyncIterator[Link]:
    """A link to a listener that answers each frame as `answer` says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader()
        while data := await reader.read(1 << 16):
            for frame in frames.feed(data):
                answer(frame, writer)
        writer.close()

    (port,) = free_ports(1)
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    member = Member(2, "peer", "", "1", "127.0.0.1", port, port, port, "0" * 32)
    link = Link(member, me, lambda: NO_RING, 1.0)
    link.start()
    try:
        yield link
    finally:
        await link.stop()
        server.close()


class _Honest:
    """A peer that knows the cluster key; remembers which incarnations called."""

    def __init__(self) -> None:
        self.acceptor = Acceptor(PEER, b"n" * 16, lambda number, name, incarnation: False)
        self.callers: list[bytes] = []
        self.on_hello: Callable[[], None] = lambda: None

    def answer(self, frame: Frame, writer: asyncio.StreamWriter) -> None:
        if frame.type == Type.HELLO:
            self.acceptor = Acceptor(PEER, b"n" * 16, lambda number, name, incarnation: False)
            writer.write(_frame(Type.CHALLENGE, self.acceptor.hello(frame.payload)))
            self.on_hello()
        elif frame.type == Type.PROOF:
            self.callers.append(self.acceptor.proof(frame.payload).incarnation)
            writer.write(_frame(Type.WELCOME))


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the other side's progress is polled
            await asyncio.sleep(0.001)


async def test_schedule_19_a_welcome_without_a_proof_is_none() -> None:
    hellos = 0

    def impostor(frame: Frame, writer: asyncio.StreamWriter) -> None:
        nonlocal hellos
        hellos += 1
        writer.write(_frame(Type.WELCOME))

    async with _peer(impostor, lambda: ME) as link:
        ups: list[Link] = []
        link.on_up = ups.append
        await _until(lambda: hellos >= 2)  # it was refused, and dialled again
        assert not ups


async def test_an_incarnation_that_changes_during_the_dial_is_told() -> None:
    now = [ME]
    peer = _Honest()

    def change() -> None:
        now[0] = Identity(b"c" * 16, "me", 1, b"incarn-9", KEYRING)
        link.reconnect()
        peer.on_hello = lambda: None

    peer.on_hello = change
    async with _peer(peer.answer, lambda: now[0]) as link:
        await _until(lambda: peer.callers[-1:] == [b"incarn-9"])
        await _until(lambda: link.up)


async def test_everybody_who_waits_is_told_that_the_link_is_lost() -> None:
    peer = _Honest()
    told: list[int] = []

    def fails(kind: int, payload: bytes) -> None:
        raise KeyError("a caller's mistake")

    async with _peer(peer.answer, lambda: ME) as link:
        await _until(lambda: link.up)
        for on_reply in (fails, lambda kind, payload: told.append(kind)):
            link.request(Type.PING, b"", 1000, on_reply)
        link.reconnect()
        await _until(lambda: told == [LOST])
        await _until(lambda: link.up)
        # What no peer would read doesn't cost the others their connection.
        link.request(Type.WRITE, bytes(PAYLOAD_BYTES_MAX + 1), 1000, lambda k, p: told.append(k))
        await _until(lambda: told == [LOST, LOST])
        assert link.up


class _Deaf(_Honest):
    """Proves itself and then, while `deaf`, takes every request and answers nothing."""

    deaf = True

    def answer(self, frame: Frame, writer: asyncio.StreamWriter) -> None:
        if frame.type in (Type.HELLO, Type.PROOF):
            super().answer(frame, writer)
        elif not self.deaf:
            writer.write(_frame(Type.PONG, b"", frame.request_id))


def _ping(link: Link) -> None:
    link.request(Type.PING, b"", 1000, lambda kind, payload: None)


async def test_a_connection_that_eats_everything_is_dialled_anew() -> None:
    peer = _Deaf()
    async with _peer(peer.answer, lambda: ME) as link:
        await _until(lambda: link.up)
        now = asyncio.get_running_loop().time()
        _ping(link)
        link.check(now + 1.5, 0.0)
        assert (link.state, link.up) == ("suspect", True)
        # A loop that lagged for a minute has heard nobody: it doubts itself.
        link.check(now + 61.5, 60.0)
        assert link.up
        told: list[int] = []
        link.request(Type.PING, b"", 1000, lambda kind, payload: told.append(kind))
        link.check(now + 1.5 + 60 + DROP_FACTOR, 0.0)
        await _until(lambda: told == [LOST])
        peer.deaf = False
        await _until(lambda: len(peer.callers) == 2 and link.healthy)


async def test_who_is_suspected_again_and_again_is_trusted_later() -> None:
    peer = _Deaf()
    async with _peer(peer.answer, lambda: ME) as link:
        await _until(lambda: link.up)
        loop = asyncio.get_running_loop()

        async def silent_then_answers() -> None:
            peer.deaf = True
            _ping(link)
            link.check(loop.time() + 1.5, 0.0)
            assert link.state == "suspect"
            peer.deaf = False
            answered = link.replies
            _ping(link)
            await _until(lambda: link.replies > answered)

        await silent_then_answers()
        assert link.healthy, "once is forgiven with the first answer"
        await silent_then_answers()
        assert link.state == "suspect", "it has to prove itself for a while"
        link.check(loop.time() + 30, 0.0)
        assert link.healthy


async def test_an_alarm_that_fails_keeps_no_other_from_ringing() -> None:
    loop = asyncio.get_running_loop()
    alarms = Alarms(loop)
    rung = asyncio.Event()
    when = loop.time()
    alarms.at(when, lambda: 1 // 0)
    alarms.at(when, rung.set)
    async with asyncio.timeout(5):
        await rung.wait()
