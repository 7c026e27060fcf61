"""Walking: what a copy at another node has and the one here lacks, merged (design: handover).

Owns the asking side of PULL, for whoever takes a slot over and for whoever covers a copy
whose tenure has ended: a page, and the walk from one tree's segments to the keys that
differ. Each answer is judged by the rounds that it was built under, at the moment when
its objects are merged, and once more in each key's turn (docs/decisions/0012, 8).

Forbidden here: by what right a copy is taken, and what follows from having all of it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from dynamo_core import antientropy, exchange, merkle, wire
from dynamo_core import handover_messages as messages
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.exchange import Got
from dynamo_core.handover import Answer
from dynamo_core.handover_messages import About, Given, Pull, What
from dynamo_core.merkle import HASH_BYTES, SEGMENTS
from dynamo_core.records import DIGEST_BYTES
from dynamo_core.ring import position
from dynamo_core.rounds import Kept, State
from dynamo_core.slots import Token
from dynamo_core.wire import Type
from dynamo_node.antientropy_answers import FETCH_KEYS, PAGE_KEYS
from dynamo_node.awaiting import all_told
from dynamo_node.digests import leaves
from dynamo_node.links import LOST
from dynamo_node.storage import Done

if TYPE_CHECKING:
    from dynamo_node.node import Node

ASK_TIMEOUT_S: Final = 10.0
HURRIED_SEGMENTS_MAX: Final = 64
"""Where more differ, a copy is as good as lost: clients then wait less for it than for the
work, and are served by the others."""
ENTRY_BYTES: Final = 6
"""What a key takes in a page beside its own bytes and its object's."""


class NotGiven(DynamoError):
    """The holder doesn't answer, or says no; `answer` is None where it said nothing of its own."""

    def __init__(self, text: str, answer: Answer | None = None) -> None:
        super().__init__(text)
        self.answer = answer


class RoundPassed(DynamoError):
    """What was answered may not be merged: `state` has the rounds that it was built under."""

    def __init__(self, state: State) -> None:
        super().__init__(f"the holder's copy is of round {state.committed}, this one isn't")
        self.state = state


@dataclass(slots=True)
class Walked:
    """What a walk came to: all that the copy with that root has is here, or in this batch."""

    root: bytes
    state: State
    kept: Kept | None
    possible_loss: bool
    keys: int = 0
    """Keys that differed, each merged once."""
    bytes: int = 0


Judge = Callable[[State], bool]
"""Whether what was built under those rounds may be merged here now."""


class Copy:
    """One copy at node `holder`, of one tenure of one slot.

    `judge` is asked before each merge; what was merged counts only while the copy here has
    not been emptied since. All methods raise NotGiven, RoundPassed, Corrupt, or what refused
    an object here.
    """

    def __init__(
        self, node: "Node", holder: int, partition: int, slot: int, token: Token, judge: Judge
    ) -> None:
        self._node = node
        self._holder = holder
        self._partition = partition
        self._slot = slot
        self._token = token
        self._judge = judge
        self._emptied = node.replica.emptied[partition]
        self.paced = True
        """Whether it keeps to the share of background work: not where clients wait for it."""

    def may_merge(self, state: State) -> bool:
        """Whether what was built under those rounds belongs into the copy here now."""
        return self._node.replica.emptied[self._partition] == self._emptied and self._judge(state)

    def about(self) -> About:
        """What each message about it begins with; names the row that is known here now."""
        digest = self._node.topology.digest(self._partition)
        return About(self._partition, self._slot, self._token, digest)

    async def ask(self, what: What, rest: bytes = b"") -> Given:
        """One answer of the holder's."""
        node, number = self._node, self._holder
        link = node.topology.links.get(number)
        if link is None:
            raise NotGiven(f"{node.topology.host_name(number)} is not in the ring")
        if self._partition in node.topology.unsettled:
            await node.disk.store.durable()  # nothing is asked by a row that isn't fsynced
        payload = messages.pack_pull(Pull(self.about(), what, rest))
        kind, reply = await link.ask(Type.PULL, payload, ASK_TIMEOUT_S)
        name = link.member.name
        if kind == LOST:
            raise NotGiven(f"{name} is down" if not link.up else f"{name} doesn't answer")
        if kind != Type.PULL_REPLY:
            node.coordinator.reply_was_no(number, kind, reply)
            raise NotGiven(f"{name} answers: {_error_text(kind, reply)}")
        answer, given, row = messages.unpack_pull_reply(reply)
        if given is None:
            node.custodies.learn(self._partition, row)
            raise NotGiven(f"{name} answers: {answer.name.lower()}", answer)
        return given

    # Merging

    async def merge(self, given: Given, items: list[tuple[bytes, bytes]]) -> None:
        """Merge (key, encoded object) pairs of an answer; all are durable when this returns."""
        try:
            if not self.paced:
                await self._merge(given, items)
                return
            async with self._node.slices.slice("transfer") as bite:
                await bite.aside(self._merge(given, items))
        except Corrupt as error:
            there = self._node.topology.host_name(self._holder)
            raise Corrupt(f"a record here or at {there} is damaged: {error}") from error

    def _merge(self, given: Given, items: list[tuple[bytes, bytes]]) -> "asyncio.Future[None]":
        if not self.may_merge(given.state):
            raise RoundPassed(given.state)
        node, partition = self._node, self._partition
        merge, partition_of = node.replica.merge, node.replica.partition_of
        # As new as the round that is committed here now: if another one is by the time
        # when a key's turn comes, it is refused then.
        stamp = node.replica.rounds.committed(partition)
        starts = []
        for key, obj in items:
            digest = position(key)
            if partition_of(digest) != partition:
                raise Corrupt(f"a key that isn't in partition {partition} was answered")
            starts.append(partial(_start, merge, key, digest, obj, stamp))
        return all_told(starts)

    # The walk

    async def walk(self) -> Walked:
        """Compare the trees, and merge every key that the copy has otherwise than this one.

        The copy here may have more; the one there may change, if it isn't sealed.
        """
        node, partition = self._node, self._partition
        given = await self.ask(What.TREE)
        segments, kept = messages.unpack_tree(given.body)
        if not self.may_merge(given.state):
            raise RoundPassed(given.state)
        walked = Walked(merkle.root_of(segments), given.state, kept, given.possible_loss)
        ring = node.topology.ring
        assert ring is not None
        differing = _differing(segments, node.trees.all(partition))
        if len(differing) > HURRIED_SEGMENTS_MAX:
            self.paced = True
        for first, last in antientropy.runs(differing):
            start = merkle.first_place(partition, first, ring.partitions)
            end = merkle.first_place(partition, last, ring.partitions)
            while start < end:
                start = await self._page_of_leaves(walked, start, end)
        if not self.may_merge(walked.state):
            raise RoundPassed(walked.state)
        return walked

    async def _page_of_leaves(self, walked: Walked, start: bytes, end: bytes) -> bytes:
        """Merge what differs among the next keys; where the next page starts."""
        given = await self.ask(What.LEAVES, exchange.pack_list(self._partition, start, end))
        theirs, more = exchange.unpack_leaves(given.body)
        bound = theirs[-1][0] + b"\x00" if more else end
        if theirs and not (start <= theirs[0][0] and theirs[-1][0] < end):
            raise Corrupt("it answers with keys that were not asked for")
        store = self._node.disk.store
        if theirs and store.dirty:
            await store.durable()  # what this tick wrote isn't seen by the scan
        mine: dict[bytes, bytes] = {}
        low = start
        while theirs and low < bound:
            page = await leaves(store, low, bound, PAGE_KEYS)
            mine.update(page.leaves)
            low = page.end
        keys = [place[DIGEST_BYTES:] for place, leaf in theirs if mine.get(place) != leaf]
        while keys:
            taken = await self._fetch(walked, keys[:FETCH_KEYS])
            keys = keys[taken:]
        return bound

    async def _fetch(self, walked: Walked, keys: list[bytes]) -> int:
        """Fetch and merge the first of `keys`; how many were given."""
        given = await self.ask(What.FETCH, exchange.pack_fetch(self._partition, keys))
        fetched = exchange.unpack_fetched(given.body)
        if not 0 < len(fetched) <= len(keys):
            raise Corrupt(f"it answers {len(fetched)} of {len(keys)} keys that were fetched")
        given_of = zip(keys, fetched, strict=False)
        found = [(key, item.obj) for key, item in given_of if item.got == Got.OBJECT]
        await self.merge(given, found)
        walked.keys += len(fetched)
        walked.bytes += sum(ENTRY_BYTES + len(key) + len(obj) for key, obj in found)
        return len(fetched)


def _start(
    merge: Callable[..., None], key: bytes, digest: bytes, obj: bytes, stamp: int, done: Done
) -> None:
    merge(key, digest, obj, stamp, done, True)


def _differing(theirs: bytes, mine: bytes) -> list[int]:
    """Which of all segments differ."""
    places = range(0, SEGMENTS * HASH_BYTES, HASH_BYTES)
    return [
        at // HASH_BYTES
        for at in places
        if theirs[at : at + HASH_BYTES] != mine[at : at + HASH_BYTES]
    ]


def _error_text(kind: int, reply: bytes) -> str:
    if kind != Type.ERROR:
        return f"a frame of type {kind}"
    code, text = wire.unpack_error(reply)
    if code == wire.Code.OTHER_ROW:
        return "it knows other holders"
    return text or wire.Code(code).name.lower()
