"""Returning: whether a copy that lay on a disk at a start is as new as its rounds.

Owns the rule by which an owner, after each start, finds out that its disk is an
old one: rolled back, or a volume that was away (design: disks). A round is
committed only with the fsynced yes of every owner, so a disk that knows nothing
of a committed round is from before it, and what it shows may have been reaped. At
most W-1 disks are bad at a time, so of W owners, itself among them, one knows.
Until they were heard a copy is unsure: it may not say yes, say what it lacks, or
stamp with a round beyond the one on its disk, because each would vouch for it.

Forbidden here: the network, the disk, and what a recovering copy merges (`recovery`).
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from dynamo_core.copies import Holding
from dynamo_core.frames import NO_RING, RingName
from dynamo_core.recovery import Lack
from dynamo_core.rounds import UNKNOWN, State


class Step(Enum):
    """What follows for a copy from what was heard of the others'."""

    SURE = "it is as new as its rounds"
    UNSURE = "too few owners were heard"
    TAKE_FLOOR = "it is empty: what is older than the round is refused from now on"
    CATCH_UP = "it agreed to the round and has not carried out its list"
    EMPTY = "it is too old, and another one is complete: it counts as lost"
    WAIT = "it is too old, and no complete one can be reached"
    TAKE_OVER = "it is too old, and the best there is"


class Judged(NamedTuple):
    """A step; `reap_round` (and the ring it was committed under) is the one it is about.

    With SURE it is a round that was promised by others and never committed, 0 for none:
    not to be said yes to any more.
    """

    step: Step
    reap_round: int = 0
    ring: RingName = NO_RING


def judge(
    mine: Holding,
    others: Sequence[int],
    heard: Mapping[int, Holding],
    reachable: Iterable[int],
    w: int,
) -> Judged:
    """What follows for the copy `mine` of a partition with the other owners `others`.

    `heard` is what they have told since this start, `reachable` who can be pulled from
    now, `w` the cluster's W.
    """
    newest = max((heard[o].state for o in others if o in heard), key=_committed, default=UNKNOWN)
    reap_round, ring = newest.committed, newest.ring
    if reap_round > mine.state.committed:
        if mine.fresh:
            return Judged(Step.TAKE_FLOOR, reap_round, ring)
        if mine.agreed_to(reap_round):
            return Judged(Step.CATCH_UP, reap_round, ring)
        return Judged(_of_old(mine, others, heard, reachable, reap_round), reap_round, ring)
    if mine.fresh:
        return Judged(Step.SURE)
    promised = {r for h in heard.values() for r in h.state.said if r > mine.state.taken}
    if all(o in heard for o in others):
        return Judged(Step.SURE, max(promised, default=0))
    # A round that others have promised, and this disk doesn't know, may have been committed
    # by somebody who can't be asked just now.
    if promised or len(heard) < max(1, w - 1):
        return Judged(Step.UNSURE)
    return Judged(Step.SURE)


def _of_old(
    mine: Holding,
    others: Sequence[int],
    heard: Mapping[int, Holding],
    reachable: Iterable[int],
    reap_round: int,
) -> Step:
    for holding in (heard[o] for o in reachable if o in heard):
        complete = holding.lack == Lack.NOTHING and holding.sure
        if complete and holding.state.committed >= reap_round:
            return Step.EMPTY
    if any(o not in heard for o in others):
        return Step.WAIT
    with_data = [h for h in heard.values() if not h.fresh]
    if any(h.agreed_to(reap_round) for h in with_data):
        return Step.WAIT  # for that one to be sure, and to count
    # Whoever knew of the round has lost its disk since: the best of what is left stays.
    best = max((h.state.committed for h in with_data), default=0)
    return Step.TAKE_OVER if mine.state.committed >= best else Step.WAIT


def _committed(state: State) -> int:
    return state.committed
