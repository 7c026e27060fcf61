"""Schedules 1, 2, 4 and 14 of the design, told step by step on the pure core."""

from itertools import permutations

from dynamo_core import objects
from dynamo_core.actors import Minter
from dynamo_core.contexts import Keyring
from dynamo_core.objects import ABSENT, Object, Sibling
from dynamo_core.versions import EMPTY, Clock, Dot

KEY = b"cart:7"
KEYS = Keyring(1, {1: b"k" * 32})


class Replica:
    """One node's record of one key: the object and the mark, and nothing else."""

    def __init__(self, number: int, incarnation: bytes = b"start-01") -> None:
        self.minter = Minter(number, incarnation, lease_end=100)
        self.held = ABSENT
        self.mark: Dot | None = None

    def put(self, value: bytes, token: str | None = None, at: int = 0) -> str:
        """A client's write, coordinated here; gives the context that the PUT answers."""
        seen = KEYS.open(KEY, token).clock if token else EMPTY
        dot = self.minter.next_dot(self.mark)
        write_id = dot[0][:4] + dot[0][12:] + dot[1].to_bytes(8, "big")
        self.held = objects.put(self.held, seen, Sibling(dot, write_id, at, "text/plain", value))
        self.mark = dot
        return KEYS.seal(KEY, seen.with_dot(dot).to_bytes())

    def get(self) -> str:
        """The context of a read that this replica alone answers."""
        return KEYS.seal(KEY, self.held.clock.to_bytes())

    def receive(self, incoming: Object) -> None:
        self.held = objects.merge(self.held, incoming)

    def forget(self) -> None:
        self.held, self.mark = ABSENT, None

    def power_cut(self, synced: tuple[Object, Dot | None], incarnation: bytes) -> None:
        """Only what was synced is still there, and the start wasn't clean."""
        self.held, self.mark = synced
        self.minter = Minter(self.minter.number, incarnation, lease_end=100)

    @property
    def values(self) -> list[bytes | None]:
        return [s.value for s in objects.shown(self.held)]


def test_schedule_01_stand_in_writes_blind_twice() -> None:
    """A stand-in writes blind, delivers its hint, forgets, writes blind again."""
    owner, stand_in = Replica(1), Replica(4)

    stand_in.put(b"first")
    owner.receive(stand_in.held)  # the hint is delivered ...
    stand_in.forget()  # ... and with the record goes the mark

    stand_in.put(b"second")
    born_again = stand_in.held.siblings[0].dot
    assert born_again[0] != owner.held.siblings[0].dot[0], "a new birth, so a new actor"
    assert not stand_in.held.clock.descends(owner.held.clock)

    owner.receive(stand_in.held)
    assert owner.values == [b"first", b"second"]

    # While the record stays the actor goes on: the clock doesn't grow by writes.
    stand_in.put(b"third", stand_in.get())
    assert stand_in.held.siblings[0].dot == (born_again[0], 2)
    owner.receive(stand_in.held)
    assert owner.values == [b"first", b"third"]


def test_schedule_02_power_cut_after_mint() -> None:
    """A node mints, peers acknowledge, it loses power before its own flush, mints again."""
    node, peer = Replica(1), Replica(2)

    node.put(b"old")
    synced = node.held, node.mark
    token = node.get()
    node.put(b"acknowledged", token)
    peer.receive(node.held)  # the peer's copy is durable: the client got its W

    node.power_cut(synced, b"start-02")
    assert node.values == [b"old"]
    node.put(b"after", token)

    dots = {s.dot for s in (*node.held.siblings, *peer.held.siblings)}
    assert len(dots) == 2, "the lost dot was not issued again"
    peer.receive(node.held)
    node.receive(peer.held)
    assert peer.held == node.held
    assert node.values == [b"acknowledged", b"after"]


def test_schedule_04_context_of_a_put() -> None:
    """X and Y blind; Y's writer puts again with the context of its own PUT: X survives."""
    owner, other = Replica(1), Replica(2)

    owner.put(b"X")
    session = owner.put(b"Y")
    dot_x, dot_y = (s.dot for s in owner.held.siblings)
    context = KEYS.open(KEY, session).clock
    assert context == Clock({}, [dot_y]), "what was sent and the new dot, not the stored clock"
    assert not context.covers(dot_x)

    other.receive(owner.held)
    session = other.put(b"Y again", session)
    assert other.values == [b"X", b"Y again"]
    owner.receive(other.held)
    assert owner.values == [b"X", b"Y again"]

    # The session goes on at a replica that has seen nothing of it.
    stand_in = Replica(3)
    stand_in.put(b"Y at last", session)
    owner.receive(stand_in.held)
    assert owner.values == [b"X", b"Y at last"]


def test_schedule_14_slow_clock_last_write_wins() -> None:
    """Three writes, one by a slow clock, merged in every order under lastWriteWins.

    A at 100; B has seen A, but its clock is slow: 50; C at 80 has seen neither.
    If time decided at replicas, A would beat B, its own successor, and what
    remains would depend on the order.
    """
    first, slow, third = Replica(1), Replica(2), Replica(3)
    first.put(b"A", at=100)
    slow.receive(first.held)
    slow.put(b"B", first.get(), at=50)
    third.put(b"C", at=80)

    ends = set()
    for order in permutations([first.held, slow.held, third.held]):
        replica = Replica(9)
        for incoming in order:
            replica.receive(incoming)
        ends.add(objects.to_bytes(replica.held))
    assert len(ends) == 1, "every order ends in the same bytes"

    end = objects.from_bytes(ends.pop())
    assert {s.value for s in end.siblings} == {b"B", b"C"}, "B stays: only A was seen and goes"
    assert [s.value for s in objects.last_written(end)] == [b"C"]

    # The answer shows C alone with a context for both, so the next write ends it,
    # however slow the clock that stamps it.
    replica.put(b"D", replica.get(), at=1)
    assert [s.value for s in objects.last_written(replica.held)] == [b"D"]

    # Between equal times the dot decides, the same everywhere.
    other = Replica(4)
    other.put(b"E", at=80)
    for a, b in permutations([third.held, other.held]):
        assert [s.value for s in objects.last_written(objects.merge(a, b))] == [b"E"]
