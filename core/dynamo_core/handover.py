"""Handover: by which right a node holds slots of one partition, and how it passes them on.

Owns `Custody`: one node's tenures, seals and half-pulled copy of one partition, as a
state machine with a durable record. The old side seals once and for good, from then on
serves nothing by that slot, and deletes when a present holder has proven that it holds
the whole sealed copy. The successor pulls, asks for the seal, walks what still differs
and takes the next token; it counts once W-1 other holders know of that durably. Without
a seal there is only the claim, which follows the rule for recovering nodes (design:
handover; docs/decisions/0012).

Every change goes to `persist` (and the row to the table's) in the same step. Whatever a
method returns may be sent, and a new row acted under, only once that is fsynced.

Forbidden here: time, the network, where objects are, and who should hold what.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum, Flag, auto
from typing import NamedTuple

from dynamo_core.slot_table import SlotTable
from dynamo_core.slots import Row, Token, holders, moves, next_move, override
from dynamo_core.tenures import Asked, Custodies, Held, Pulling, Seal, Stage


class Standing(Enum):
    """What a node answers a request for the partition with."""

    COUNTS = "it serves"
    NOT_YET = "a write is kept and doesn't count; a read has to be tried again"
    MOVED = "nothing is done here"
    OTHER_ROW = "one of both knows less: rows are exchanged first, and nothing is done"


class Effect(Flag):
    """What has to go into the same batch as the record."""

    NONE = 0
    EMPTY = auto()
    """Delete the copy, unread, with its trees."""
    CLAIM = auto()
    """The copy is recovering: it lacks what an empty one lacks."""


class Answer(Enum):
    """To PULL and SEAL."""

    GIVEN = 0
    """The page or the seal."""
    NOT_NOW = 1
    """The holder is recovering or unsure, or doesn't count yet: ask again."""
    NOT_YOU = 2
    """By the holder's ring, which isn't older, the slot goes to nobody or somebody else."""
    ROW = 3
    """Not the holder of that token: here is its row."""


class Do(Enum):
    """What a successor does next."""

    BEGIN = "join the holder's rounds, then `begin`"
    PULL = "ask for the page after `cursor`"
    SEAL = "`asking`, fsync, then ask for the seal"
    WALK = "merge all that differs from the sealed copy, then `walked`"


class Step(NamedTuple):
    do: Do
    slot: int
    source: Token


class Custody:
    """One node's part in one partition. `wanted` is always its newest ring's `slots[p]`."""

    __slots__ = ("_known_by", "_table", "held", "me", "partition", "persist", "pulling", "seals")

    def __init__(self, table: SlotTable, partition: int, me: int) -> None:
        self._table = table
        self.partition = partition
        self.me = me
        self.held: dict[int, Held] = {}
        self.seals: dict[int, Seal] = {}
        self.pulling: Pulling | None = None
        self._known_by: set[int] = set()
        self.persist: Callable[[Custodies], None] = lambda record: None
        """Puts the record into the tick's batch; see `tenures.record_to_bytes`."""

    def load(self, record: Custodies) -> Effect:
        """Take up what the disk has; the table has been loaded before."""
        self.held, self.seals, self.pulling = dict(record.held), dict(record.seals), record.pulling
        return self.conform()

    def found(self) -> None:
        """A founder's own disk adopts the first ring: its slots count from the start."""
        for slot, token in enumerate(self.row):
            if token.holder == self.me:
                self.held[slot] = Held(token, Stage.COUNTS)
        self._put()

    # What is known

    @property
    def row(self) -> Row:
        return self._table.row(self.partition)

    @property
    def counts(self) -> bool:
        return any(held.stage is Stage.COUNTS for held in self.held.values())

    @property
    def takes(self) -> bool:
        """Whether the copy here may change: it counts, or will; a sealed one stays as it is."""
        return bool(self.held or (self.pulling and not self._owes))

    @property
    def keeps(self) -> bool:
        """Whether what is merged here stays until somebody else has it: no longer half-pulled,
        and not claimed only, which may yet be emptied as too old."""
        return any(held.stage >= Stage.TAKEN for held in self.held.values())

    @property
    def has_copy(self) -> bool:
        """Whether any record of the partition may be here."""
        return bool(self.held or self.seals or self.pulling)

    def standing(self, digest: bytes) -> Standing:
        """How a request that names the row `digest` is answered."""
        if digest != self._table.digest(self.partition):
            return Standing.OTHER_ROW
        if self.counts:
            return Standing.COUNTS
        return Standing.NOT_YET if self.takes else Standing.MOVED

    @property
    def _owes(self) -> bool:
        """Whether a successor still needs a copy here as it was sealed."""
        return any(self.row[slot] == seal.token for slot, seal in self.seals.items())

    def blocks_reaping(self, wanted: Sequence[int]) -> str:
        """Why this member says no to a PREPARE; empty when its slots don't stand in the way."""
        if self.seals:
            return "holds a copy whose slot has been sealed"
        if self.pulling:
            return "holds a half-pulled copy"
        if not all(held.stage is Stage.COUNTS for held in self.held.values()):
            return "has taken over a slot that doesn't count yet"
        if self.unclaimed():
            return "has yet to claim a slot"
        if open_slots := moves(self.row, wanted):
            move = open_slots[0]
            return f"slot {move.slot} moves from node {move.source.holder} to node {move.target}"
        return ""

    # Learning

    def learn(self, row: Row) -> Effect:
        """What anybody said of who holds the slots."""
        if not self._table.learn(self.partition, row):
            return Effect.NONE
        return self.conform()

    def adopted(self, given_up: Mapping[int, int], wanted: Sequence[int]) -> Effect:
        """A ring is in force and the table has adopted it.

        A half-pulled copy for which nothing was sealed is let go when its slot goes elsewhere.
        """
        effect = Effect.NONE
        for slot, seal in sorted(self.seals.items()):
            if self.row[slot] != seal.token:
                continue
            # It can't complete any more: as if it had, and then been given up or drained.
            row = list(self.row)
            row[slot] = seal.token.handed_to(seal.successor)
            if seal.successor in given_up:
                self._table.learn(self.partition, override(tuple(row), given_up, wanted))
            elif seal.successor in self._table.drained:
                self._table.learn(self.partition, tuple(row))
        effect |= self.conform()
        pulling = self.pulling
        if pulling and pulling.asked is Asked.NO and not self._goes_here(pulling, wanted):
            effect |= self._abandon()
        return effect

    def _goes_here(self, pulling: Pulling, wanted: Sequence[int]) -> bool:
        return any(
            (move.slot, move.source, move.target) == (pulling.slot, pulling.source, self.me)
            for move in moves(self.row, wanted)
        )

    def conform(self) -> Effect:
        """Draw what follows from the row for what is held here; after each change of the table."""
        effect = Effect.NONE
        changed = False
        for slot, held in sorted(self.held.items()):
            # A disk may go on under another number: what its node held before isn't this one's.
            if self.row[slot] != held.token or held.token.holder != self.me:
                del self.held[slot]
                self.seals[slot] = Seal(held.token, 0)
                changed = True
        if self.held and self.seals:
            # The copy lives on in another slot; what it has, the others get by anti-entropy.
            outlived = [
                slot
                for slot, seal in self.seals.items()
                if not seal.successor or self.row[slot] != seal.token
            ]
            for slot in outlived:
                del self.seals[slot]
                changed = True
        pulling = self.pulling
        if pulling and self.row[pulling.slot] != pulling.source:
            effect |= self._abandon()
        if changed or effect:
            self._put()
        return effect

    def _raise(self, slot: int, token: Token) -> None:
        row = self.row
        self._table.learn(self.partition, (*row[:slot], token, *row[slot + 1 :]))

    def _abandon(self) -> Effect:
        self.pulling = None
        self._put()
        return Effect.NONE if self.has_copy else Effect.EMPTY

    # The old side

    def on_pull(self, slot: int, source: Token, able: bool) -> Answer:
        """A page is asked for. `able`: the copy here is complete and sure."""
        if self._ended(slot, source):
            return Answer.GIVEN
        held = self.held.get(slot)
        if held is None or held.token != source:
            return Answer.ROW
        return Answer.GIVEN if able and held.stage is Stage.COUNTS else Answer.NOT_NOW

    def _ended(self, slot: int, source: Token) -> bool:
        seal = self.seals.get(slot)
        return seal is not None and seal.token == source

    def on_seal(
        self, slot: int, source: Token, successor: int, able: bool, wanted: Sequence[int]
    ) -> Answer:
        """A successor asks for the seal; `wanted` by a ring that isn't older than its own."""
        if self._ended(slot, source):
            return Answer.GIVEN if self.seals[slot].successor == successor else Answer.ROW
        held = self.held.get(slot)
        if held is None or held.token != source:
            return Answer.ROW
        if not any((m.slot, m.target) == (slot, successor) for m in moves(self.row, wanted)):
            return Answer.NOT_YOU
        if not able or held.stage is not Stage.COUNTS:
            return Answer.NOT_NOW
        del self.held[slot]
        self.seals[slot] = Seal(source, successor)
        self._put()
        return Answer.GIVEN

    def offers(self) -> list[tuple[int, int, Seal]]:
        """(node, slot, seal): to whom each ended tenure is offered until somebody covers it."""
        found = []
        for slot, seal in sorted(self.seals.items()):
            token = self.row[slot]
            to = seal.successor if token == seal.token else token.holder
            if to != self.me:  # else this node claims the slot, and keeps its copy
                found.append((to, slot, seal))
        return found

    def on_covered(self, slot: int, token: Token, theirs: bytes, root: bytes) -> Effect:
        """A present holder has fsynced all that the copy with that root has.

        `root` is the root of the copy here. Nothing follows for another tenure or copy.
        """
        if not self._ended(slot, token) or self.row[slot] == token:
            return Effect.NONE
        if not self.held and (theirs != root or self._twice(self.row[slot].holder)):
            return Effect.NONE
        return self._let_go(slot)

    def _twice(self, node: int) -> bool:
        """Whether a node holds two slots: two copies would become one if the old side deleted."""
        return sum(token.holder == node for token in self.row) > 1

    def on_too_old(self, slot: int, token: Token) -> Effect:
        """The present holders have committed a round that the copy here knows nothing of."""
        if not self._ended(slot, token) or self.row[slot] == token:
            return Effect.NONE
        return self._let_go(slot)

    def may_cover(self, slot: int, token: Token) -> bool:
        """Whether this node may merge the whole of an ended tenure's copy and say so.

        Only if that copy is as new as the rounds here: else its holder is told so.
        """
        held = self.held.get(slot)
        return held is not None and held.stage is Stage.COUNTS and token < held.token

    def _let_go(self, slot: int) -> Effect:
        del self.seals[slot]
        self._put()
        return Effect.NONE if self.has_copy else Effect.EMPTY

    # The successor

    def next_step(self, wanted: Sequence[int], unable: Collection[int]) -> Step | None:
        """What to do about the half-pulled copy, or the one to begin; None when nothing is due.

        `unable` are nodes that are down, recovering, or have said NOT_NOW lately.
        """
        pulling = self.pulling
        if pulling is not None:
            if pulling.asked is Asked.SEALED:
                do = Do.WALK
            elif pulling.asked is Asked.MAYBE or pulling.whole:
                do = Do.SEAL
            else:
                do = Do.PULL
            return Step(do, pulling.slot, pulling.source)
        move = next_move(self.row, wanted, unable)
        if move is None or move.target != self.me or self._owes or self.held:
            return None
        return Step(Do.BEGIN, move.slot, move.source)

    def begin(self, slot: int, source: Token, reap_round: int) -> bool:
        """The holder's rounds are joined, in this batch or an earlier one; pages may come.

        They are merged into a copy of an ended tenure that is still here, if it is as new as
        the holder's rounds; else that is deleted first, see `on_too_old`.
        """
        if self.pulling or self._owes or self.row[slot] != source or source.holder == self.me:
            return False
        self.pulling = Pulling(slot, source, reap_round)
        self._put()
        return True

    def may_merge(self, slot: int, source: Token, reap_round: int) -> bool:
        """Whether a page of that round belongs to this very handover; else it is thrown away."""
        p = self.pulling
        return p is not None and (p.slot, p.source, p.reap_round) == (slot, source, reap_round)

    def pulled(self, slot: int, source: Token, cursor: bytes, last: bool) -> None:
        """A page is merged, in this batch; the next begins after `cursor`."""
        p = self.pulling
        if p and (p.slot, p.source) == (slot, source) and (last or cursor > p.cursor):
            self.pulling = p._replace(cursor=max(cursor, p.cursor), whole=p.whole or last)
            self._put()

    def round_passed(self, slot: int, source: Token, reap_round: int) -> Effect:
        """The holder has committed a later round than this copy's: it is begun anew, and empty.

        With EMPTY the holder's rounds are joined anew in the same batch. What names an earlier
        round is late, and changes nothing: a walk may have got far under this one.
        """
        p = self.pulling
        if p is None or (p.slot, p.source) != (slot, source) or p.reap_round >= reap_round:
            return Effect.NONE
        self.pulling = Pulling(slot, source, reap_round, p.asked)
        self._put()
        return Effect.NONE if self.held or self.seals else Effect.EMPTY

    def asking(self, slot: int, source: Token) -> bool:
        """The question for the seal may leave once this is fsynced."""
        p = self.pulling
        if p is None or (p.slot, p.source) != (slot, source):
            return False
        if p.asked is Asked.NO:
            self.pulling = p._replace(asked=Asked.MAYBE)
            self._put()
        return True

    def refused(self, slot: int, source: Token) -> Effect:
        """NOT_YOU: no seal names this node, and none will under a ring that is known to it."""
        p = self.pulling
        if p is None or (p.slot, p.source) != (slot, source) or p.asked is Asked.SEALED:
            return Effect.NONE
        return self._abandon()

    def sealed(self, slot: int, source: Token, reap_round: int) -> Effect:
        """The holder says, or offers, that its seal names this node.

        So it can be for a copy that is not begun: what is not pulled yet, the walk finds.
        `reap_round` is the holder's, joined before; see `round_passed`.
        """
        p = self.pulling
        if p is None:
            if self.begin(slot, source, reap_round):
                return self.sealed(slot, source, reap_round)
            return Effect.NONE
        if (p.slot, p.source) != (slot, source):
            return Effect.NONE if p.asked else self._abandon()  # the offer will come again
        effect = self.round_passed(slot, source, reap_round)
        if p.asked is not Asked.SEALED:
            self.pulling = (self.pulling or p)._replace(asked=Asked.SEALED)
            self._put()
        return effect

    def walked(self, slot: int, source: Token, reap_round: int, w: int) -> Effect:
        """The walk began after the seal; all that it found is in this batch, or fsynced."""
        p = self.pulling
        if p is None or (p.slot, p.source, p.asked) != (slot, source, Asked.SEALED):
            return Effect.NONE
        if p.reap_round != reap_round:
            return self.round_passed(slot, source, reap_round)
        token = source.handed_to(self.me)
        self.pulling = None
        self.held[slot] = Held(token, Stage.TAKEN)
        self._known_by.clear()
        self._raise(slot, token)
        self._put()
        return self.conform() | self.enough(w)

    # What others know

    def untold(self) -> list[int]:
        """Other holders that have to know the row here before a tenure counts."""
        if all(held.stage is Stage.COUNTS for held in self.held.values()):
            return []
        return [n for n in holders(self.row) if n != self.me and n not in self._known_by]

    def known_by(self, node: int, row: Row, w: int) -> Effect:
        """`node` has fsynced `row`, which is what it knows now."""
        effect = self.learn(row)
        if all(slot < len(row) and row[slot] == held.token for slot, held in self.held.items()):
            self._known_by.add(node)
        return effect | self.enough(w)

    def enough(self, w: int) -> Effect:
        """Whether enough other holders know what was taken: it counts then.

        Asked as well when the others have become fewer: this node may hold all slots by now.
        """
        others = [n for n in holders(self.row) if n != self.me]
        known = [n for n in others if n in self._known_by]
        # One at least: whoever claims this slot hears all others where W is 1. And no more
        # than there are, while one of them holds two slots.
        if len(known) >= min(max(w - 1, 1), len(others)):
            for slot, held in self.held.items():
                if held.stage is Stage.TAKEN:
                    self.held[slot] = held._replace(stage=Stage.COUNTS)
                    self._put()
        return Effect.NONE

    def unclaimed(self) -> list[int]:
        """Slots that the row gives to this node although its disk has no record of that, and
        those that it is to get from a node that is in no ring any more.

        It was nominated, or the disk with the record is lost.
        """
        mine = [
            slot
            for slot, token in enumerate(self.row)
            if token.holder == self.me and slot not in self.held and not self._ended(slot, token)
        ]
        return mine + self._table.orphans(self.partition, self.me)

    def claim(self, heard: Collection[int], needed: int) -> Effect:
        """Take those slots without a seal. `heard`: holders whose rows were joined since the start.

        Not sooner than `needed` were (`slots.needed_to_claim`): one of them knows of any
        tenure that the lost disk had, and the claim has to stand above its seal.
        """
        if len([n for n in holders(self.row) if n in heard and n != self.me]) < needed:
            return Effect.NONE
        effect = Effect.NONE
        unclaimed = self.unclaimed()
        if self.pulling and self.pulling.slot in unclaimed:
            effect = self._abandon()  # its holder can't complete it any more
        for slot in unclaimed:
            mine = self.row[slot].claimed(self.me)
            self._raise(slot, mine)
            self.held[slot] = Held(mine, Stage.CLAIMED)
            effect |= Effect.CLAIM
        if effect:
            self._known_by.clear()
            self._put()
            effect |= self.conform()
        return effect

    def recovered(self, slot: int, token: Token, merged: Collection[int], needed: int) -> bool:
        """Whether a claim counts from now on: `merged` are holders whose copies were merged,
        each after it had told that it durably knows this claim; see `slots.needed_to_claim`."""
        held = self.held.get(slot)
        if held is None or held != (token, Stage.CLAIMED):
            return False
        fenced = [n for n in holders(self.row) if n in merged and n in self._known_by]
        if len(fenced) < needed:
            return False
        self.held[slot] = held._replace(stage=Stage.COUNTS)
        self._put()
        return True

    def _put(self) -> None:
        self.persist(Custodies(self.held, self.seals, self.pulling))
