"""h2load against a stand-in for a node: the window, the checks, and the store's own loads."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from aiohttp import web
from bench.contender import GET, OVERWRITE, PUT, Cell, Load
from bench.errors import BenchError
from bench.h2load import Totals
from bench.measure import run_to_completion
from bench.ports import free_ports
from bench.processes import Children
from bench.store import Store, check_lists
from tests.bench.patience import measured

pytestmark = pytest.mark.skipif(not shutil.which("h2load"), reason="needs Debian's nghttp2-client")

VALUE = b"v" * 1024


class StandIn:
    """PUT and GET of /kv/KEY in a dict, on a thread of its own."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.puts: Counter[str] = Counter()
        self.refuse = False
        (self.port,) = free_ports(1)
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(10)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._done.set)
            self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        runner = web.ServerRunner(web.Server(self._answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        self._up.set()
        await self._done.wait()
        await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if self.refuse:
            return web.Response(status=503)
        if request.method == "PUT":
            self.values[request.path] = body
            self.puts[request.path] += 1
            return web.Response(status=204)
        if request.path not in self.values:
            return web.Response(status=404)
        return web.Response(body=self.values[request.path])


class StandInStore(Store):
    """The real contender's loads, with the stand-in in the place of the three nodes."""

    def attach(self, port: int) -> None:
        for nodes in self._clusters.values():
            nodes._ports = {"stand-in": (port, 0, 0)}
            self._body.write_bytes(self._value)
            self.preload(nodes)


@pytest.fixture
def server() -> Iterator[StandIn]:
    standing = StandIn()
    standing.start()
    yield standing
    standing.stop()


@pytest.fixture
def children() -> Iterator[Children]:
    with Children() as running:
        yield running


def store(children: Children, server: StandIn, folder: Path, operation: str = PUT) -> StandInStore:
    made = StandInStore(children, folder, folder, VALUE, 40, [operation])
    made.attach(server.port)
    return made


def test_puts_make_every_key_once(children: Children, server: StandIn, tmp_path: Path) -> None:
    made = store(children, server, tmp_path)
    assert len(server.puts) == 40
    assert set(server.values.values()) == {VALUE}
    for round_ in (1, 2):
        assert measured(children, made.load, tmp_path, PUT, 3, 3, round_).requests > 0
    assert set(server.puts.values()) == {1}


def test_overwriting_puts_share_one_generator(
    children: Children, server: StandIn, tmp_path: Path
) -> None:
    made = store(children, server, tmp_path, OVERWRITE)
    assert measured(children, made.load, tmp_path, OVERWRITE, 3).requests > 0
    assert len(server.puts) == 40
    assert max(server.puts.values()) > 1


def test_gets_ask_for_the_preloaded_keys(
    children: Children, server: StandIn, tmp_path: Path
) -> None:
    made = store(children, server, tmp_path)
    assert measured(children, made.load, tmp_path, GET, 2).requests > 0


def test_a_missing_key_fails_the_cell(children: Children, server: StandIn, tmp_path: Path) -> None:
    made = store(children, server, tmp_path)
    del server.values["/kv/bench-000003"]
    with pytest.raises(BenchError, match="of status 404"):
        measured(children, made.load, tmp_path, GET, 2)


def test_an_unavailable_server_fails_the_cell(
    children: Children, server: StandIn, tmp_path: Path
) -> None:
    made = store(children, server, tmp_path)
    server.refuse = True
    with pytest.raises(BenchError, match="of status 503"):
        measured(children, made.load, tmp_path, PUT, 1)


def test_a_lost_value_fails_the_cell(children: Children, server: StandIn, tmp_path: Path) -> None:
    made = store(children, server, tmp_path)

    def losing(cell: Cell) -> Load:
        honest = made.load(cell)

        def verify(totals: Sequence[Totals]) -> None:
            server.values.pop(f"/kv/put-{cell.round}-1-0-0")
            honest.verify(totals)

        return Load(honest.streams, honest.wanted_status, {}, verify)

    with pytest.raises(BenchError, match=r"put-\d+-1-0-0 .* status 404"):
        measured(children, losing, tmp_path, PUT, 1)


def test_nobody_listening_fails_loudly(children: Children, server: StandIn, tmp_path: Path) -> None:
    made = store(children, server, tmp_path)
    load = made.load(Cell(GET, 1, 1, 1, 1.0))
    server.stop()
    with pytest.raises(BenchError):
        run_to_completion(children, load, [5], tmp_path, 5.0)


def test_a_used_up_list_is_an_error() -> None:
    check_lists([Totals(5, 5, 0, 0), Totals(7, 6, 0, 0)], 7)
    with pytest.raises(BenchError, match="8 puts, more than its list of 7 keys"):
        check_lists([Totals(5, 5, 0, 0), Totals(8, 8, 0, 0)], 7)


def test_puts_of_several_connections_never_share_a_generator(
    children: Children, server: StandIn, tmp_path: Path
) -> None:
    made = store(children, server, tmp_path)
    with pytest.raises(BenchError, match="one generator a connection"):
        made.load(Cell(PUT, 4, 1, 2, 1.0))
