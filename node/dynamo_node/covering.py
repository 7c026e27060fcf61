"""Covering: what becomes of a copy whose tenure has ended (design: handover).

Owns the offers of such copies, and both sides of COVERED: a present holder merges the
whole of one, durably, before it says so, and only then is it deleted where it lay. A copy
from before a committed round is deleted unread.

Forbidden here: what a cover means (`dynamo_core.handover`).
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from dynamo_core import handover_messages as messages
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import Frame
from dynamo_core.handover import Custody
from dynamo_core.handover_messages import About, Covered, Offer
from dynamo_core.rounds import State
from dynamo_core.slots import Token
from dynamo_core.wire import Type
from dynamo_node.handing_over import able, end_of
from dynamo_node.inbound import Inbound
from dynamo_node.walking import Copy, NotGiven, RoundPassed

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

OFFER_S: Final = 1.0
OFFER_TIMEOUT_S: Final = 2.0
OFFERS_MAX: Final = 16
"""To one node at a time."""
COVERS_AT_ONCE: Final = 2


class Covering:
    """One per node; `run` until cancelled."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._covering: set[int] = set()
        self._offered: dict[int, tuple[int, int]] = {}
        """Node -> (partition, slot) that it was offered last."""
        node.handlers[Type.OFFER] = self._offer
        node.handlers[Type.COVERED] = self._covered

    # Offering

    async def run(self) -> None:
        """Offer each copy whose tenure has ended, until a present holder has all of it."""
        while True:
            await asyncio.sleep(OFFER_S)
            try:
                await self._offer_all()
            except DynamoError as error:
                log.warning("copies can't be offered now: %s", error)

    async def _offer_all(self) -> None:
        node = self._node
        to: dict[int, list[tuple[int, int, Token, bool]]] = {}
        for custody in node.custodies.sealed():
            for number, slot, seal in custody.offers():
                names = seal.successor == number and custody.row[slot] == seal.token
                to.setdefault(number, []).append((custody.partition, slot, seal.token, names))
        self._offered = {n: last for n, last in self._offered.items() if n in to}
        if not to:
            return
        await node.disk.store.durable()
        await asyncio.gather(*(self._offer_some(n, listed) for n, listed in sorted(to.items())))

    async def _offer_some(self, number: int, listed: list[tuple[int, int, Token, bool]]) -> None:
        """A few, in turn: those behind the last one that was offered come first."""
        link = self._node.topology.links.get(number)
        if link is None or not link.healthy:
            return
        last = self._offered.get(number, (-1, -1))
        turn = [o for o in listed if o[:2] > last] + [o for o in listed if o[:2] <= last]
        chosen = turn[:OFFERS_MAX]
        self._offered[number] = chosen[-1][:2]
        await asyncio.gather(*(self._offer_one(number, *offer) for offer in chosen))

    async def _offer_one(
        self, number: int, partition: int, slot: int, token: Token, names: bool
    ) -> None:
        node = self._node
        link = node.topology.links.get(number)
        if link is None:
            return
        about = About(partition, slot, token, node.topology.digest(partition))
        offer = messages.pack_offer(Offer(about, names, end_of(node, partition)))
        kind, reply = await link.ask(Type.OFFER, offer, OFFER_TIMEOUT_S)
        if kind != Type.OFFER_REPLY:
            node.coordinator.reply_was_no(number, kind, reply)
            return
        try:
            _, row = messages.unpack_offer_reply(reply)
            node.custodies.learn(partition, row)
        except Corrupt as error:
            log.warning("the answer of %s to an offer: %s", link.member.name, error)

    def _offer(self, caller: Inbound, frame: Frame) -> None:
        node, offer = self._node, messages.unpack_offer(frame.payload)
        partition, slot, token, digest = offer.about
        if node.rows.differ(caller, frame, partition, digest):
            return
        assert caller.hello is not None
        if offer.names_you:
            state = offer.end.holding.state
            taken = node.pulling.take_seal(partition, slot, token, state)
        else:
            taken = self._cover(caller.hello.number, offer)
        row = node.topology.row(partition)
        caller.reply(frame.request_id, Type.OFFER_REPLY, messages.pack_offer_reply(taken, row))

    # Covering

    def _cover(self, number: int, offer: Offer) -> bool:
        """Begin to take in another node's ended copy; whether that is so."""
        node, (partition, slot, token, _) = self._node, offer.about
        custody = node.custodies.of(partition)
        if not able(node, partition) or not custody.may_cover(slot, token):
            return False
        if partition in self._covering or len(self._covering) >= COVERS_AT_ONCE:
            return False
        self._covering.add(partition)
        node.in_background(self._take_in(custody, number, offer))
        return True

    async def _take_in(self, custody: Custody, number: int, offer: Offer) -> None:
        node, (partition, slot, token, _) = self._node, offer.about
        rounds, end = node.replica.rounds, offer.end

        def agreed(state: State) -> bool:
            # What is late is judged by the round that is committed now.
            may = able(node, partition) and custody.may_cover(slot, token)
            return may and state.agreed_to(rounds.committed(partition))

        copy = Copy(node, number, partition, slot, token, agreed)
        try:
            too_old = not end.holding.state.agreed_to(rounds.committed(partition))
            root = end.root
            if not too_old and root != node.trees.root(partition):
                root = (await copy.walk()).root
            others = min(node.settings.now.w, len(custody.row)) - 1
            if not await node.handoff.spread(partition, others):
                log.info("partition %d isn't covered yet: hints here lie nowhere else", partition)
                return
            await node.custodies.settled((partition,))
            if too_old or copy.may_merge(end.holding.state):
                await self._say_covered(number, About(partition, slot, token, b""), too_old, root)
        except (NotGiven, RoundPassed) as error:
            log.info("partition %d isn't covered yet: %s", partition, error)
        except DynamoError as error:
            log.warning("partition %d can't be covered now: %s", partition, error)
        finally:
            self._covering.discard(partition)

    async def walked(self, custody: Custody, slot: int, token: Token, root: bytes) -> None:
        """This node took a slot over, all of whose sealed copy with that root is here: say so.

        At once, if it may; else, and if that is lost, the copy is offered anyway.
        """
        partition = custody.partition
        if not custody.may_cover(slot, token) or self._node.replica.hints.in_partition(partition):
            return  # hints here need another disk first: see `_take_in`
        await self._node.custodies.settled((partition,))
        await self._say_covered(token.holder, About(partition, slot, token, b""), False, root)

    async def _say_covered(self, number: int, about: About, too_old: bool, root: bytes) -> None:
        node, partition = self._node, about.partition
        link = node.topology.links.get(number)
        if link is None:
            return
        about = about._replace(digest=node.topology.digest(partition))
        covered = Covered(about, too_old, root, node.topology.row(partition))
        await link.ask(Type.COVERED, messages.pack_covered(covered), OFFER_TIMEOUT_S)

    def _covered(self, caller: Inbound, frame: Frame) -> None:
        """A present holder has all that is in a copy here, or the copy is too old to be had."""
        node, covered = self._node, messages.unpack_covered(frame.payload)
        partition, slot, token, _ = covered.about
        if node.topology.table is None or caller.hello is None:
            return
        node.custodies.learn_all({partition: covered.row})
        caller.reply(frame.request_id, Type.COVERED_REPLY, b"")
        row, custody = node.topology.row(partition), node.custodies.of(partition)
        if slot >= len(row) or row[slot].holder != caller.hello.number:
            return  # somebody else holds it by now, and will be offered the copy
        had = custody.has_copy
        if covered.too_old:
            log.warning(
                "partition %d: the copy here is from before a round that is committed; it is "
                "deleted unread",
                partition,
            )
            effect = custody.on_too_old(slot, token)
        else:
            effect = custody.on_covered(slot, token, covered.root, node.trees.root(partition))
        node.custodies.carry_out(partition, effect)
        if had and not custody.has_copy:
            node.standing.handed_over(partition)
            node.transfers.totals.handed_over += 1
            log.info("partition %d is handed over; its copy here is deleted", partition)
