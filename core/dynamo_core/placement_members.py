"""Who the next ring names: members, leaving members, their numbers, and what is told of it.

Owns `Candidate`, a node that is wanted, and `succession`, which compares the nodes that are
wanted with those that a ring names. Forbidden here: tokens and slots (`placement`), and
whether a leaving member is drained or should be given up (whoever calls knows that).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dynamo_core.errors import CallerError
from dynamo_core.fields import refuse
from dynamo_core.ring import Member, Ring


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that shall be a member of the next ring: a Member without a number."""

    name: str
    zone: str
    capacity: str
    host: str
    http_port: int
    native_port: int
    admin_port: int
    disk_id: str

    def numbered(self, number: int) -> Member:
        """This node as the member of that number."""
        return Member(
            number=number,
            name=self.name,
            zone=self.zone,
            capacity=self.capacity,
            host=self.host,
            http_port=self.http_port,
            native_port=self.native_port,
            admin_port=self.admin_port,
            disk_id=self.disk_id,
        )


@dataclass(frozen=True, slots=True)
class Succession:
    """The nodes that the ring after some ring names."""

    members: tuple[Member, ...]  # by number
    leaving: tuple[Member, ...]  # by number
    next_number: int
    events: tuple[tuple[str, Member], ...]  # for the history, in its order


def succession(
    ring: Ring,
    wanted: Iterable[Candidate],
    drained: Collection[int] = (),
    give_up: Collection[int] = (),
) -> Succession:
    """What becomes of each node if exactly `wanted` shall be members after `ring`.

    A known name with the known disk goes on under its number, be it a member or leaving;
    with another disk it replaces that node, under a new number, as new names have. Who is
    a member and isn't wanted leaves. `drained` and `give_up` are numbers: leaving members
    that are dropped, and nodes that a person gave up. Who is both is given up.

    CallerError if `drained` names one that isn't leaving, `give_up` one that the ring
    doesn't name, or either one that is wanted with the disk it had.
    """
    leaving = {node.number for node in ring.leaving}
    for number in sorted(drained):
        if number not in leaving:
            raise refuse("drained", number, _one_of("a leaving member", leaving))
    known = {node.number for node in ring.everybody}
    for number in sorted(give_up):
        if number not in known:
            raise refuse("give_up", number, _one_of("a node that the ring names", known))
    dropped = {*drained} - {*give_up}

    number = ring.next_number
    members: list[Member] = []
    events: list[tuple[str, Member]] = []
    for one in wanted:
        before = ring.node_named(one.name)
        if before and before.disk_id == one.disk_id:
            for field, numbers in (("drained", drained), ("give_up", give_up)):
                if before.number in numbers:
                    raise CallerError(
                        f"{field} names {before.number}, which is {one.name}, and {one.name} is "
                        f"wanted with the disk that it has: it must be one or the other"
                    )
            members.append(one.numbered(before.number))
            if before.number in leaving:
                events.append(("joined", members[-1]))
            elif before.capacity != one.capacity:
                events.append(("reweighed", members[-1]))
        else:
            members.append(one.numbered(number))
            number += 1
            # What is drained holds nothing that would have to be declared void.
            replaces = before is not None and before.number not in dropped
            events.append(("replaced" if replaces else "joined", members[-1]))

    names = {member.name for member in members}
    off = [n for n in ring.everybody if n.name not in names and n.number not in give_up]
    told = [("given-up", node) for node in ring.everybody if node.number in give_up]
    told += [("left", node) for node in off if node.number not in leaving]
    return Succession(
        members=tuple(sorted(members, key=lambda member: member.number)),
        leaving=tuple(node for node in off if node.number not in dropped),
        next_number=number,
        events=(*told, *events),
    )


def _one_of(what: str, numbers: Collection[int]) -> str:
    found = ", ".join(map(str, sorted(numbers)))
    return f"the number of {what} ({found or 'there is none'})"
