"""Hosts' names: looked up anew for each connection, never waited for longer than a dial."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench.ports import free_ports
from tests.node.node_processes import NodeProcess

from dynamo_core.contexts import Keyring
from dynamo_core.frames import NO_RING
from dynamo_core.handshake import Identity
from dynamo_core.ring import Member
from dynamo_node import links
from dynamo_node.links import Link
from dynamo_node.names import LOOKUPS_MAX, Names, NotFoundError
from dynamo_node.outside import look_up

ME = Identity(b"c" * 16, "me", 1, b"incarn-1", Keyring(1, {1: b"k" * 32}))


class Resolver:
    """Answers when it is told to; the one place where names are hooked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hanging: list[asyncio.Future[list[str]]] = []
        self.answers: Iterator[list[str] | OSError | None] = iter(())

    def look_up(self, host: str) -> "asyncio.Future[list[str]]":
        self.asked.append(host)
        found: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        answer = next(self.answers, None)
        if isinstance(answer, OSError):
            found.set_exception(answer)
        elif answer is not None:
            found.set_result(answer)
        else:
            self.hanging.append(found)
        return found


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


async def _until(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_addresses_are_no_names(resolver: Resolver) -> None:
    names = Names(resolver.look_up)
    for address in ("127.0.0.1", "::1", "fe80::1%eth0"):
        assert list(await names.addresses(address)) == [address]
    assert resolver.asked == []


async def test_a_name_is_looked_up_each_time(resolver: Resolver) -> None:
    names = Names(resolver.look_up)
    resolver.answers = iter([["10.0.0.1"], ["10.0.0.2"]])
    assert list(await names.addresses("pod-0")) == ["10.0.0.1"]
    assert list(await names.addresses("pod-0")) == ["10.0.0.2"]


async def test_what_is_not_found_says_who_and_why(resolver: Resolver) -> None:
    names = Names(resolver.look_up)
    resolver.answers = iter([OSError(-2, "Name or service not known"), []])
    with pytest.raises(NotFoundError, match="pod-0 isn't found: Name or service not known"):
        await names.addresses("pod-0")
    with pytest.raises(NotFoundError, match="pod-0 has no address"):
        await names.addresses("pod-0")


async def test_a_resolver_that_hangs_is_asked_once_for_a_host_and_for_a_few(
    resolver: Resolver,
) -> None:
    names = Names(resolver.look_up)
    for _ in range(3):
        for number in range(2 * LOOKUPS_MAX):
            waiting = asyncio.create_task(names.addresses(f"pod-{number}"))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    assert resolver.asked == [f"pod-{number}" for number in range(LOOKUPS_MAX)]
    for found in resolver.hanging:
        found.set_exception(OSError(-3, "Temporary failure in name resolution"))
    await asyncio.sleep(0)
    resolver.answers = iter([["10.0.0.9"]])
    assert list(await names.addresses("pod-31")) == ["10.0.0.9"], "there is room again"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70])
async def test_the_real_resolver_gives_no_address_and_no_other_error(host: str) -> None:
    with pytest.raises(NotFoundError, match=host[:8]):
        await Names(look_up).addresses(host)


async def test_the_real_resolver_finds_this_machine() -> None:
    assert set(await Names(look_up).addresses("localhost")) <= {"127.0.0.1", "::1"}


def _link(resolver: Resolver, port: int) -> Link:
    member = Member(2, "peer", "", "1", "peer.nodes.shop.svc", port, port, port, "0" * 32)
    names = Names(resolver.look_up)
    return Link(member, lambda: ME, lambda: NO_RING, 1.0, addresses=names.addresses)


async def test_a_peer_is_dialled_where_its_name_leads_by_then(resolver: Resolver) -> None:
    called: asyncio.Queue[str] = asyncio.Queue()

    def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.put_nowait(writer.get_extra_info("sockname")[0])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.2", 0)
    port = server.sockets[0].getsockname()[1]
    second = await asyncio.start_server(serve, "127.0.0.3", port)
    resolver.answers = iter([["127.0.0.2"], ["127.0.0.9", "127.0.0.3"], OSError(-2, "unknown")])
    link = _link(resolver, port)
    link.start()
    try:
        async with asyncio.timeout(10):
            assert await called.get() == "127.0.0.2"
            assert await called.get() == "127.0.0.3", "where nobody listens doesn't count"
        await _until(lambda: link.refusal == "peer.nodes.shop.svc isn't found: unknown")
        assert link.state == "down"
    finally:
        await link.stop()
        server.close()
        second.close()


async def test_a_hanging_resolver_leaves_the_peer_down_and_the_dialler_alive(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(links, "DIAL_TIMEOUT_S", 0.05)
    tries = SimpleNamespace(count=0)
    names = Names(resolver.look_up)

    async def counted(host: str) -> object:
        tries.count += 1
        return await names.addresses(host)

    link = _link(resolver, 1)
    link._addresses = counted  # type: ignore[assignment]
    link.start()
    try:
        await _until(lambda: tries.count >= 3)
        assert link.state == "down"
        assert resolver.asked == ["peer.nodes.shop.svc"], "one lookup, however often it is dialled"
        resolver.hanging[0].set_exception(OSError(-3, "no answer"))
        await _until(lambda: len(resolver.asked) > 1)
    finally:
        await link.stop()
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


HUNG = """
import socket, time
socket.getaddrinfo = lambda *_, **__: time.sleep(600)
from dynamo_node.main import main
main()
"""


def test_a_process_whose_resolver_hangs_starts_and_ends_in_time(tmp_path: Path) -> None:
    ports = free_ports(3)
    seeds = [{"name": f"pod-{n}", "host": f"pod-{n}.x", "native_port": 7070} for n in range(3)]
    node = NodeProcess(tmp_path, "me", (ports[0], ports[1], ports[2]), {"seeds": seeds})
    node.start(("-c", HUNG))
    try:
        assert node.wait_up()["state"] == "waiting"
        node.terminate()
        assert node.wait_end(20) == 0
    finally:
        if node.alive:
            node.kill()
    assert "never retrieved" not in node.log()
