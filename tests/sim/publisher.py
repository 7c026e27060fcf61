"""Publisher: whoever decides on rings and posts them, as an operator does.

Owns what it wants (`Wishes`), the ring that it has decided on, and what follows from
what nodes tell of themselves: whom it posts to, who is proven to be drained, whose
process may end. A ring is decided before it is posted, and what is decided outlives
its crash; nothing else does. It goes by what it was told in this very pass: who
didn't answer is unknown.

Forbidden here: looking into a node but through what it answers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final, NamedTuple

from tests.sim.world import AT, Machine, World, candidate

from dynamo_core.errors import DynamoError
from dynamo_core.placement import Candidate, next_ring
from dynamo_core.ring import Ring
from dynamo_node.node import Node
from dynamo_node.rings import RingConflictError

ANSWERS_S: Final = 0.3
PAUSE_S: Final = (0.05, 0.8)


@dataclass(slots=True)
class Wishes:
    """What a person wants: nodes with their capacities, and numbers that are given up."""

    wanted: dict[str, str]
    give_up: set[int] = field(default_factory=set)

    def copy(self) -> "Wishes":
        return Wishes(dict(self.wanted), set(self.give_up))


class Told(NamedTuple):
    """What a node said of itself in one pass."""

    number: int
    disk_id: str
    ring: Ring | None
    handover: dict[str, Any]


async def told(node: Node) -> Told:
    """`GET /admin/status` and `/admin/ring`: all of it from one moment, and fsynced."""
    status, ring = node.status(), node.topology.ring
    await node.disk.store.durable()
    return Told(status["number"] or 0, status["disk_id"], ring, status["handover"])


class Publisher:
    """One that decides; two may be at it at the same time.

    `main`: it starts and ends machines as well. `reaches`: the share of nodes that it
    finds in a pass. `crashes`: how likely it crashes after a step.
    """

    def __init__(self, world: World, rng: Random, wishes: Wishes, main: bool = True) -> None:
        assert world.ring is not None
        self.world = world
        self.rng = rng
        self.wishes = wishes
        self.main = main
        self.decided = world.ring
        self.reaches = 1.0
        self.crashes = 0.0
        self.follows_disks = world.shape.follows_disks
        self.ends_at_once = world.shape.ends_at_once
        self.alone = True
        """Off, another one may decide too. Then it names nobody who isn't in the ring: two
        rings that follow the same one would give one number to two nodes."""
        self.active = False
        self.posting = True
        """Off, it decides and tells nobody, for schedules."""
        self._pass = 0
        self._seen: dict[str, Told] = {}

    # One pass after another

    def begin(self) -> None:
        if not self.active:
            self.active = True
            self._observe()

    def dismiss(self) -> None:
        self.active = False
        self._pass += 1

    def crash(self) -> None:
        """It knows no more than what it has decided, and comes back after a while."""
        self.dismiss()
        self.world.note("publisher", "crashes")
        self.world.scheduler.at(self.world.now + self.rng.uniform(0.5, 4.0), None, self.begin)

    def _observe(self) -> None:
        self._pass += 1
        self._seen = {}
        for name in sorted({*self.wishes.wanted, *(n.name for n in self.decided.everybody)}):
            self._ask(name, self._status)
        world = self.world
        world.scheduler.at(world.now + ANSWERS_S, None, self._judge, self._pass)

    def _ask(self, name: str, what: Callable[..., Any]) -> None:
        """Have `what(node, pass, name)` carried out by a node that can be reached."""
        machine = self.world.named(name)
        if machine is None or machine.process is None or machine.process.node is None:
            return
        if self.reaches < 1.0 and self.rng.random() > self.reaches:
            return
        process, node = machine.process, machine.process.node
        when = self.world.now + self.rng.uniform(0.0002, 0.05)
        number = self._pass
        self.world.scheduler.at(
            when, process.loop, lambda: process.loop.create_task(what(node, number, name))
        )

    async def _status(self, node: Node, number: int, name: str) -> None:
        try:
            answer = await told(node)
        except DynamoError:
            return
        when = self.world.now + self.rng.uniform(0.0002, 0.05)
        self.world.scheduler.at(when, None, self._answered, number, name, answer)

    def _answered(self, number: int, name: str, answer: Told) -> None:
        if number == self._pass:
            self._seen[name] = answer

    def _judge(self, number: int) -> None:
        if number != self._pass:
            return
        self._learn()
        steps = (self._decide, self._post, self._end) if self.main else (self._decide, self._post)
        for step in steps:
            step()
            if self.crashes and self.rng.random() < self.crashes:
                self.crash()
                return
        pause_s = self.rng.uniform(*PAUSE_S)
        self.world.scheduler.at(self.world.now + pause_s, None, self._again, self._pass)

    def _again(self, number: int) -> None:
        if number == self._pass:
            self._observe()

    # Rings

    def _learn(self) -> None:
        """Somebody else has decided too, or what was decided can't come into force."""
        held = [told.ring for told in self._seen.values() if told.ring is not None]
        if not held:
            return
        best = max(held, key=lambda ring: ring.name)
        known = {ring.id for ring in held}
        nobody_can = not known & {self.decided.id, self.decided.parent} and all(
            node.name in self._seen or node.number in self.wishes.give_up
            for node in self.decided.everybody
        )
        overtaken = self.decided.id not in known and best.epoch == self.decided.epoch
        if best.name > self.decided.name or overtaken or nobody_can:
            self._take(best, "learns of")
            # The word was about a node of a ring that never came to be: its number is free.
            self.wishes.give_up &= {node.number for node in best.everybody}

    def _take(self, ring: Ring, how: str) -> None:
        self.decided = ring
        members, leaving = (
            [f"{m.name}={m.number}" for m in some] for some in (ring.members, ring.leaving)
        )
        self.world.note(
            "publisher" if self.main else "other publisher",
            f"{how} ring {ring.epoch} {ring.id[:6]} of {members} leaving {leaving}",
        )

    def _decide(self) -> None:
        """The next ring, if one is due; in force is what somebody holds."""
        ring = self.decided
        if not any(
            told.ring is not None and told.ring.id == ring.id for told in self._seen.values()
        ):
            return
        wanted, drained, give_up = self._due()
        if wanted is not None:
            faults = self.world.faults
            faults["rings decided on"] += 1
            if any(told.handover["open_slots"] for told in self._seen.values()):
                faults["of them while slots moved"] += 1
            self._take(next_ring(ring, wanted, AT, drained, give_up), "decides on")

    def _due(self) -> tuple[list[Candidate] | None, list[int], list[int]]:
        """Members, drained and given-up numbers of the next ring; None for no ring."""
        ring = self.decided
        wanted = []
        for name, capacity in sorted(self.wishes.wanted.items()):
            before, now = ring.node_named(name), self._seen.get(name)
            if before is not None and before.number in self.wishes.give_up:
                continue  # who bears the name next comes with a later ring
            if now is not None and self.alone and (before is None or self.follows_disks):
                wanted.append(candidate(name, capacity, now.disk_id))
            elif before is not None:
                wanted.append(candidate(name, capacity, before.disk_id))
        give_up = [n.number for n in ring.everybody if n.number in self.wishes.give_up]
        names = {one.name for one in wanted}
        drained = [n for n in self.drained() if ring.node(n).name not in names]
        same = [(m.name, m.capacity, m.disk_id) for m in sorted(ring.members, key=lambda m: m.name)]
        due = drained or give_up or same != [(c.name, c.capacity, c.disk_id) for c in wanted]
        if not due or len(wanted) < ring.replication:
            return None, [], []
        return wanted, drained, give_up

    def _post(self) -> None:
        if not self.posting:
            return
        for node in self.decided.everybody:
            told = self._seen.get(node.name)
            if told is not None and (told.ring is None or told.ring.id != self.decided.id):
                self._ask(node.name, self._post_to)

    async def _post_to(self, node: Node, number: int, name: str) -> None:
        ring = self.decided
        try:
            await node.rings.post(ring)
        except RingConflictError as error:
            self.world.note("publisher", f"{name} refuses ring {ring.epoch}: {error}")
        except DynamoError as error:
            if node.failure is None:
                self.world.note("publisher", f"{name} can't take ring {ring.epoch}: {error}")

    # Proof

    def in_force(self) -> bool:
        """Whether every node that the decided ring names has said that it holds it."""
        return all(
            (told := self._seen.get(node.name)) is not None
            and told.number == node.number
            and told.ring is not None
            and told.ring.id == self.decided.id
            for node in self.decided.everybody
        )

    def drained(self) -> list[int]:
        """Numbers of leaving members of which it is proven that nobody needs them any more."""
        ring = self.decided
        if not ring.leaving or not self.in_force():
            return []
        facts = {node.number: self._seen[node.name].handover for node in ring.everybody}
        return [
            node.number
            for node in ring.leaving
            if facts[node.number]["records"] == facts[node.number]["hints"] == 0
            and not any(
                str(node.number) in facts[other][of]
                for other in facts
                if other != node.number
                for of in ("sealed_to", "held_by")
            )
        ]

    def unfinished(self) -> str:
        """What is still to be done, by what the last pass was told; "" for nothing."""
        if not self.in_force():
            held = {n: t.ring and (t.ring.epoch, t.ring.id[:6]) for n, t in self._seen.items()}
            return f"ring {self.decided.epoch} is not in force everywhere: {held}"
        if self.decided.leaving:
            return f"{[n.name for n in self.decided.leaving]} are not drained: {self._facts()}"
        if self._due()[0] is not None:
            return "a ring is due"
        if any(
            told.handover["open_slots"] or told.handover["sealed_to"] or told.handover["pulling"]
            for told in self._seen.values()
        ):
            return f"slots move: {self._facts()}"
        if self.world.ending or len(self.world.machines) > len(self.decided.members):
            return "machines have still to end"
        return ""

    def _facts(self) -> dict[str, dict[str, Any]]:
        return {name: self._seen[name].handover for name in sorted(self._seen)}

    # Machines

    def _end(self) -> None:
        """End what no ring names and nobody wants; begin again what was ended too early."""
        world, ring = self.world, self.decided
        for node in ring.everybody:
            if node.number not in self.wishes.give_up and node.name in world.shelf:
                self._revive(node.name)
        sure = self.in_force() and self.posting
        for machine in list(world.machines):
            unnamed = ring.node_named(machine.name) is None
            if unnamed and machine.name not in self.wishes.wanted and (sure or self.ends_at_once):
                world.note("publisher", f"ends {machine.name}")
                if machine in world.unaware:
                    world.remove(machine)  # what it has counts as lost
                else:
                    world.end(machine)

    def _revive(self, name: str) -> Machine | None:
        """A machine is started once more with the volume that it left."""
        if self.world.named(name) is not None:
            return None
        machine = self.world.add(name, self.world.shelf.pop(name))
        self.world.start(machine)
        return machine


def second(one: Publisher, rng: Random) -> Publisher:
    """Another one that has just taken over, while the first hasn't gone yet."""
    other = Publisher(one.world, rng, one.wishes.copy(), main=False)
    other.decided = one.decided
    other.reaches = one.reaches
    other.alone = one.alone = False
    return other


def first(world: World, rng: Random) -> Publisher:
    """The one that has made the first ring."""
    assert world.ring is not None
    wishes = Wishes({member.name: member.capacity for member in world.ring.members})
    return Publisher(world, rng, replace(wishes))
