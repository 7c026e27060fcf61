"""The replica on a real store: merges of one key are serialised, also while it is being loaded."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.node.hooked_rocksdb import HookedRocksDB

from dynamo_core import objects, records
from dynamo_core.actors import Minter
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import NO_RING
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.outcomes import Kind
from dynamo_core.records import Stamp
from dynamo_core.ring import position
from dynamo_core.versions import EMPTY, Clock
from dynamo_node import storage
from dynamo_node.config import Limits
from dynamo_node.disk import Disk
from dynamo_node.kv import BODY_JSON_ROOM
from dynamo_node.opening import StorageError
from dynamo_node.refusals import RefusedError
from dynamo_node.replica import NewWrite, Replica
from dynamo_node.storage import HINTS, OBJECTS, Store

KEY = b"key"
PLACE = position(KEY) + KEY
OWNERS = (1, 2, 3)
STAMP = Stamp(0, 1, bytes(16))

pytestmark = pytest.mark.timeout(20)


class Bench:
    """A replica with its store under a hook, and its calls as coroutines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(path, sync=True, memory_bytes=16 << 20)
        self.db: Any = self.store._db
        self.replica = Replica(Disk(self.store, "00" * 16, fresh=True))
        self.limits = Limits(siblings_max=3)
        self.replica.minter = Minter(1, b"incarn-1", 1, 1 << 30)

    def merge(self, obj: bytes) -> "asyncio.Future[None]":
        return self._future(lambda done: self.replica.merge(KEY, position(KEY), obj, 0, done))

    def hint(self, target: int, obj: bytes) -> "asyncio.Future[None]":
        return self._future(
            lambda done: self.replica.hints.keep(KEY, position(KEY), target, obj, STAMP, done)
        )

    def mint(
        self, value: bytes | None, context: Clock = EMPTY, hint_for: int = 0, adopt: bool = False
    ) -> "asyncio.Future[tuple[bytes, Clock]]":
        """(object, context of the write), once it is safe."""
        future: asyncio.Future[tuple[bytes, Clock]] = asyncio.get_running_loop().create_future()
        made: list[tuple[bytes, Clock]] = []
        write = NewWrite(
            context, adopt, bytes(15) + b"%c" % len(value or b""), 0, "", value, self.limits
        )

        def done(error: BaseException | None) -> None:
            if error is None:
                future.set_result(made[0])
            else:
                future.set_exception(error)

        self.replica.mint(
            KEY,
            position(KEY),
            hint_for,
            write,
            lambda obj, clock, reap_round: made.append((obj, clock)),
            future.set_exception,
            done,
        )
        return future

    def _future(
        self, call: Callable[[Callable[[BaseException | None], None]], None]
    ) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        call(lambda error: future.set_exception(error) if error else future.set_result(None))
        return future

    async def read(self) -> set[bytes | None]:
        data = await self.replica.read_async(KEY, position(KEY), OWNERS)
        return {s.value for s in objects.from_bytes(data).siblings} if data else set()


@pytest.fixture
async def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(storage, "Rdict", HookedRocksDB)
    bench = Bench(tmp_path / "db")
    yield bench
    bench.db.sync_gate.set()
    bench.db.get_gate.set()
    await bench.store.close()


@pytest.fixture
async def unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[bytes], Awaitable[Bench]]]:
    """A bench whose KEY holds a given object on disk, where memory can't tell what."""
    monkeypatch.setattr(storage, "Rdict", HookedRocksDB)
    made: list[Bench] = []

    async def make(obj: bytes) -> Bench:
        first = Bench(tmp_path / "db")
        first.store.put(OBJECTS, PLACE, records.to_bytes(records.Record(obj, None)))
        await first.store.durable()
        await asyncio.to_thread(first.store._families[OBJECTS].flush)
        await first.store.close()
        bench = Bench(tmp_path / "db")
        made.append(bench)
        assert bench.store.peek(OBJECTS, PLACE) is storage.UNREAD
        return bench

    yield make
    for bench in made:
        bench.db.get_gate.set()
        await bench.store.close()


def _blind(actor: int, value: bytes | None) -> bytes:
    sibling = Sibling((bytes([actor]) * 16, 1), bytes([actor]) * 16, 0, "", value)
    return objects.to_bytes(objects.put(ABSENT, EMPTY, sibling))


def _after(seen: bytes, actor: int, value: bytes | None) -> bytes:
    held = objects.from_bytes(seen)
    sibling = Sibling((bytes([actor]) * 16, 1), bytes([actor]) * 16, 0, "", value)
    return objects.to_bytes(objects.put(held, held.clock, sibling))


async def test_schedule_16_two_objects_for_one_key_in_one_tick(fresh: Bench) -> None:
    await asyncio.gather(fresh.merge(_blind(1, b"x")), fresh.merge(_blind(2, b"y")))
    assert await fresh.read() == {b"x", b"y"}
    assert fresh.db.log == ["write 2", "sync"], "both in one batch"
    [(_, stored)] = await fresh.store.scan_async(OBJECTS, b"", b"\xff" * 20, 10)
    assert len(objects.from_bytes(records.object_of(stored)).siblings) == 2


async def test_schedule_16_while_the_record_is_being_loaded_from_disk(
    unread: Callable[[bytes], Awaitable[Bench]],
) -> None:
    """Each sees what the one before it wrote, not what the disk said to all of them."""
    bench = await unread(_blind(1, b"x"))
    bench.db.get_gate.clear()
    merges = [bench.merge(_blind(actor, b"v%d" % actor)) for actor in range(2, 6)]
    minted = bench.mint(b"minted")
    reading = asyncio.ensure_future(bench.read())
    await asyncio.sleep(0)
    assert not any(m.done() for m in merges)
    bench.db.get_gate.set()
    with pytest.raises(RefusedError):  # five siblings, and three are allowed
        await minted
    await asyncio.gather(*merges)
    everything = {b"x", b"v2", b"v3", b"v4", b"v5"}
    assert await reading == everything
    assert await bench.read() == everything
    assert bench.db.gets == 1, "one load served them all"


async def test_a_mint_and_a_merge_in_one_tick(fresh: Bench) -> None:
    minted, _ = await asyncio.gather(fresh.mint(b"mine"), fresh.merge(_blind(2, b"theirs")))
    assert await fresh.read() == {b"mine", b"theirs"}
    again = await fresh.mint(b"again", minted[1])
    assert await fresh.read() == {b"again", b"theirs"}
    [mine] = [s for s in objects.from_bytes(again[0]).siblings if s.value == b"again"]
    assert mine.dot[1] == 2, "the mark survived the merge: the same actor goes on"


async def test_many_mints_in_one_tick_issue_each_dot_once(fresh: Bench) -> None:
    fresh.limits = Limits(siblings_max=100)
    made = await asyncio.gather(*(fresh.mint(b"x" * at) for at in range(50)))
    dots = [
        max(s.dot for s in objects.from_bytes(obj).siblings if s.value == b"x" * at)
        for at, (obj, _) in enumerate(made)
    ]
    assert [n for _, n in dots] == list(range(1, 51))
    assert len({actor for actor, _ in dots}) == 1
    assert len(await fresh.read()) == 50


async def test_a_dot_is_in_the_batch_before_it_leaves_and_safe_before_it_is_told(
    fresh: Bench,
) -> None:
    fresh.db.sync_gate.clear()
    order: list[str] = []
    write = NewWrite(EMPTY, False, bytes(16), 0, "", b"v", Limits())
    done = asyncio.Event()

    def minted(obj: bytes, context: Clock, reap_round: int) -> None:
        assert fresh.store.peek(OBJECTS, PLACE) is not None
        order.append("minted")

    def safe(error: BaseException | None) -> None:
        order.append("safe")
        done.set()

    refuse: list[DynamoError] = []
    fresh.replica.mint(KEY, position(KEY), 0, write, minted, refuse.append, safe)
    assert order == ["minted"]
    await asyncio.sleep(0.02)
    assert order == ["minted"], "the sync has not come"
    fresh.db.sync_gate.set()
    await done.wait()
    assert order == ["minted", "safe"]


async def test_what_changes_nothing_writes_nothing(fresh: Bench) -> None:
    old = _blind(1, b"x")
    new = _after(old, 2, b"y")
    await fresh.merge(new)
    before = [line for line in fresh.db.log if line.startswith("write")]
    await asyncio.gather(fresh.merge(old), fresh.merge(new))
    assert [line for line in fresh.db.log if line.startswith("write")] == before
    assert await fresh.read() == {b"y"}


async def test_a_merge_takes_more_siblings_than_a_client_may_make(fresh: Bench) -> None:
    """Replication never refuses what was accepted."""
    for actor in range(1, 8):
        await fresh.merge(_blind(actor, b"v%d" % actor))
    assert len(await fresh.read()) == 7
    with pytest.raises(RefusedError) as refused:
        await fresh.mint(b"one more")
    assert refused.value.kind == Kind.TOO_MANY_SIBLINGS
    assert len(await fresh.read()) == 7, "nothing is written"
    await fresh.mint(None)
    assert None in await fresh.read(), "a delete is always written"


async def test_damaged_objects_are_refused_and_spoil_nothing(fresh: Bench) -> None:
    good = _blind(1, b"x")
    await fresh.merge(good)
    for bad in (b"", b"\x01", good[:-1], good + b"!", b"\xff" * 60):
        with pytest.raises(Corrupt):
            await fresh.merge(bad)
        with pytest.raises(Corrupt):
            await fresh.hint(2, bad)
    assert await fresh.read() == {b"x"}
    assert fresh.replica.hints.by_target == {}


async def test_last_write_wins_without_a_context_takes_the_clock_that_is_here(
    fresh: Bench,
) -> None:
    await fresh.mint(b"a", adopt=True)
    await fresh.mint(b"b", adopt=True)
    assert await fresh.read() == {b"b"}


# Hints


async def test_hints_are_kept_beside_counted_and_shown_to_readers(fresh: Bench) -> None:
    await fresh.merge(_blind(1, b"own"))
    await asyncio.gather(
        fresh.hint(2, _blind(2, b"for 2")),
        fresh.hint(3, _blind(3, b"for 3")),
        fresh.hint(3, _blind(4, b"for 3 too")),
        fresh.hint(9, _blind(5, b"for a node that is no owner")),
    )
    assert fresh.replica.hints.by_target == {2: 1, 3: 1, 9: 1}
    assert await fresh.read() == {b"own", b"for 2", b"for 3", b"for 3 too"}
    assert fresh.replica.keys_since_count == 1, "a hint is no key of this node"


async def test_a_hint_that_changed_while_it_was_sent_is_kept(fresh: Bench) -> None:
    await fresh.hint(2, _blind(2, b"sent"))
    [(place, sent)] = await fresh.store.scan_async(HINTS, b"", b"\xff" * 64, 10)
    await fresh.hint(2, _blind(3, b"meanwhile"))
    fresh.replica.hints.forget(place, sent)
    assert fresh.replica.hints.by_target == {2: 1}
    await fresh.store.durable()
    [(place, newer)] = await fresh.store.scan_async(HINTS, b"", b"\xff" * 64, 10)
    fresh.replica.hints.forget(place, newer)
    await fresh.store.durable()
    assert fresh.replica.hints.by_target == {}
    assert await fresh.store.scan_async(HINTS, b"", b"\xff" * 64, 10) == []
    fresh.replica.hints.forget(place, newer)
    assert fresh.replica.hints.by_target == {}, "forgotten twice counts once"


async def test_schedule_1_a_stand_in_that_forgot_its_hint_takes_a_new_birth(fresh: Bench) -> None:
    """It writes blind, delivers, forgets, writes blind again: the first value must survive."""
    first, _ = await fresh.mint(b"1st", hint_for=2)
    [(place, sent)] = await fresh.store.scan_async(HINTS, b"", b"\xff" * 64, 10)
    fresh.replica.hints.forget(place, sent)
    second, _ = await fresh.mint(b"second", hint_for=2)
    at_owner = objects.from_bytes(objects.merge_bytes(first, second))
    assert {s.value for s in at_owner.siblings} == {b"1st", b"second"}
    assert len({s.dot[0] for s in at_owner.siblings}) == 2


async def test_minting_waits_for_births_and_says_so(fresh: Bench) -> None:
    fresh.replica.minter = None
    with pytest.raises(RefusedError, match="still starting"):
        await fresh.mint(b"v")
    fresh.replica.minter = Minter(1, b"incarn-2", 5, 5)
    with pytest.raises(RefusedError, match="lease more births") as refused:
        await fresh.mint(b"v")
    assert refused.value.kind == Kind.OVERLOADED
    await fresh.store.durable()  # the extension it asked for
    await fresh.store.durable()
    obj, _ = await fresh.mint(b"v")
    assert objects.from_bytes(obj).siblings[0].dot[0].endswith((5).to_bytes(4, "big"))


async def test_a_damaged_record_spoils_no_other_key_that_is_loaded_with_it(
    unread: Callable[[bytes], Awaitable[Bench]],
) -> None:
    bench = await unread(_blind(1, b"x"))
    damaged = position(b"damaged") + b"damaged"
    bench.store.put(OBJECTS, damaged, b"\xff not a record")
    await bench.store.durable()
    await asyncio.to_thread(bench.store._families[OBJECTS].flush)
    await bench.store.close()
    bench = Bench(bench.path)
    try:
        assert bench.store.peek(OBJECTS, damaged) is storage.UNREAD
        asked = [
            asyncio.ensure_future(
                bench.replica.read_async(b"damaged", position(b"damaged"), OWNERS)
            )
            for _ in range(2)
        ]
        await asyncio.sleep(0)  # they begin before the next one does
        async with asyncio.timeout(5):
            assert await bench.read() == {b"x"}
        for task in asked:
            task.cancel()
        told = await asyncio.gather(*asked, return_exceptions=True)
        # What it holds isn't known, so nothing is said about it.
        assert all(isinstance(said, Corrupt | asyncio.CancelledError) for said in told)
        assert await bench.read() == {b"x"}
    finally:
        await bench.store.close()


async def test_a_clock_is_bounded_long_before_its_context_can_not_be_sent(fresh: Bench) -> None:
    vector = {n.to_bytes(16, "big"): 1 for n in range(1, 4096)}
    seen = Clock(vector)
    held = objects.put(ABSENT, seen, Sibling((b"z" * 16, 1), bytes(16), 0, "", b"v"))
    await fresh.merge(objects.to_bytes(held))
    with pytest.raises(RefusedError, match="4097 entries, the limit is 4096") as refused:
        await fresh.mint(b"value")
    assert refused.value.kind == Kind.TOO_MANY_SIBLINGS
    _, context = await fresh.mint(None, held.clock)
    assert len(context.to_bytes()) * 4 // 3 < BODY_JSON_ROOM, "a delete is always written"


async def test_of_a_store_that_has_failed_everybody_is_told_by_the_way_asked_for(
    fresh: Bench,
) -> None:
    # Seed 2002822: it was raised into the connection that a reply had come by.
    fresh.store._break(OSError("I/O error"))
    replica, digest = fresh.replica, position(KEY)
    told: list[BaseException | None] = []

    def never(*found: object) -> None:
        pytest.fail("a store that has failed says nothing")

    replica.read(KEY, digest, OWNERS, never, told.append)
    replica.read_own(PLACE, never, told.append)
    replica.merge(KEY, digest, _blind(1, b"v"), 0, told.append)
    replica.reap(PLACE, bytes(16), told.append)
    replica.hints.keep(KEY, digest, 2, _blind(1, b"v"), Stamp(0, *NO_RING), told.append)
    write = NewWrite(EMPTY, False, bytes(16), 0, "", b"v", Limits())
    replica.mint(KEY, digest, 0, write, never, told.append, never)
    assert [type(error) for error in told] == [StorageError] * 6
    replica.hints.forget(PLACE, b"")
    fresh.store._broken = None  # for the fixture to close it
