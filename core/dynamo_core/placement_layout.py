"""Tokens round the ring: how good an arrangement is, and how swaps make it better.

Owns `Layout`, the working state of placement: who owns each place, and what it costs that
equal nodes or equal zones lie too close; and `repair`, which swaps. Nodes are dense indexes
0.. here, not numbers. Forbidden here: targets; a swap keeps the tokens that each node owns.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from operator import ne
from typing import Final

PARTNERS_MAX: Final = 2048  # places that are looked at as a partner of one swap
SIDEWAYS_MAX: Final = 24  # rounds of swaps that leave the cost as it is
LOOKS_PER_PLACE_MAX: Final = 128  # for each of three rounds: bounds a repair to seconds
WANDER_MAX: Final = 400  # swaps of a tabu search
WANDER_PARTNERS_MAX: Final = 128  # places that are looked at as a partner of one of them
REST: Final = 6  # swaps, at least, for which a place that was swapped stays as it is


class Layout:
    """Owners of Q places, with the costs of closeness.

    `gap`: places p .. p+gap-1 should have distinct nodes. `zone_gap`: in so many zones, the
    smaller of `gap` and the zones there are. `was`: the owners before, against which moves
    are counted; None if nobody owned anything, so that nothing moves.
    """

    def __init__(
        self,
        owners: list[int],
        zone_of: Sequence[int],
        gap: int,
        zone_gap: int,
        was: Sequence[int] | None,
    ) -> None:
        self.owners = owners
        self.was = was
        self.mask = len(owners) - 1  # Q is a power of two
        self.zone_of = zone_of
        self.gap = gap
        self.zone_gap = zone_gap
        self._near = [k for k in range(1 - gap, gap) if k]
        # As many zones as replicas: equal ones keep a distance. Fewer: none stays away longer.
        self._covering = zone_gap if zone_gap < gap else 0
        self._zones = max(zone_of) + 1
        # One pair of equal nodes outweighs whatever a swap can change about zones.
        self.node_weight = 8 * gap

    def cost(self, place: int, node: int) -> int:
        """What it costs in closeness to have `node` at `place`, all else as it is."""
        owners, zone_of, mask = self.owners, self.zone_of, self.mask
        zone = zone_of[node]
        cost = 0
        if not self._covering:
            for k in self._near:
                other = owners[(place + k) & mask]
                if other == node:
                    cost += self.node_weight
                elif zone_of[other] == zone:
                    cost += 1
            return cost
        # For each other zone, the windows with this place in them that it is missing from.
        gap = self.gap
        ahead, behind = [gap] * self._zones, [gap] * self._zones
        for away in range(gap - 1, 0, -1):
            other = owners[(place + away) & mask]
            ahead[zone_of[other]] = away
            cost += self.node_weight * (other == node)
            other = owners[(place - away) & mask]
            behind[zone_of[other]] = away
            cost += self.node_weight * (other == node)
        for i in range(self._covering):
            if i != zone and ahead[i] + behind[i] > gap:
                cost += ahead[i] + behind[i] - gap
        return cost

    def conflicts(self) -> list[int]:
        """The places whose owner has an equal too near."""
        return [p for p, node in enumerate(self.owners) if self.cost(p, node)]

    def total(self) -> int:
        """The cost of the whole layout (each close pair counts twice)."""
        return sum(self.cost(p, node) for p, node in enumerate(self.owners))

    def moves(self) -> int:
        """How many places have another owner than before."""
        return sum(map(ne, self.owners, self.was or self.owners))

    def moves_added(self, p: int, q: int) -> int:
        """How many more tokens would have moved if p and q swapped owners (-2..2)."""
        if self.was is None:
            return 0
        at_p, at_q, was_p, was_q = self.owners[p], self.owners[q], self.was[p], self.was[q]
        return (at_q != was_p) + (at_p != was_q) - (at_p != was_p) - (at_q != was_q)

    def swap(self, p: int, q: int) -> None:
        owners = self.owners
        owners[p], owners[q] = owners[q], owners[p]

    def swap_cost(self, p: int, q: int) -> int:
        """By how much swapping p and q would change the cost."""
        owners = self.owners
        before = self.cost(p, owners[p]) + self.cost(q, owners[q])
        self.swap(p, q)
        after = self.cost(p, owners[p]) + self.cost(q, owners[q])
        self.swap(p, q)
        return after - before

    def near(self, p: int, q: int) -> bool:
        return min((p - q) & self.mask, (q - p) & self.mask) < self.gap


def scattered(count: int, seed: int) -> Iterator[int]:
    """All of 0..count-1 (count a power of two) once, in a scattered order set by `seed`."""
    stride = (seed * 0x9E3779B1 >> 3) % count | 1
    place = seed * 0x85EBCA6B % count
    for _ in range(count):
        yield place
        place = (place + stride) % count


def repair(layout: Layout, moves_extra_max: int, solvable: bool) -> None:
    """Swap owners until no swap brings an improvement; first without any further move.

    At most `moves_extra_max` tokens move beyond those that had moved. If all conflicts are
    `solvable`, dead ends are left by swaps that gain nothing, or less, a bounded number of
    times.
    """
    extra = 0
    for moves_each_max in (0, 1, 2):
        sideways_max = SIDEWAYS_MAX if solvable else 0
        looks, looks_max = 0, LOOKS_PER_PLACE_MAX * len(layout.owners)
        sideways = 0
        improved = True
        while (improved or sideways < sideways_max) and looks < looks_max:
            conflicts = layout.conflicts()
            if not conflicts:
                return
            # Where nothing improves, a swap that costs nothing may open a way on.
            worst = -1 if improved else 0
            sideways += not improved
            improved = False
            for p in conflicts:
                allowed = min(moves_each_max, moves_extra_max - extra) if worst else 0
                q, seen = _best_swap(layout, p, allowed, worst, sideways)
                looks += seen
                if q is not None:
                    extra += layout.moves_added(p, q)
                    improved = True
                    layout.swap(p, q)
                if looks >= looks_max:
                    break
    if solvable:
        _wander(layout, moves_extra_max - extra)


def _wander(layout: Layout, moves_extra_max: int) -> None:
    """Out of a dead end: always the best swap, even a bad one, and not back at once (a tabu
    search). Leaves the best that it has come by."""
    owners = layout.owners
    best, best_gain, gain, extra = list(owners), 0, 0, 0
    rest_until: dict[int, int] = {}
    conflicts = dict.fromkeys(layout.conflicts())  # a set in the order of its making
    for turn in range(min(WANDER_MAX, 2 * len(owners))):
        while conflicts and not layout.cost(p := next(iter(conflicts)), owners[p]):
            del conflicts[p]
        if not conflicts:
            return
        del conflicts[p]
        conflicts[p] = None  # the others first
        q = _least_bad(layout, p, moves_extra_max - extra, turn, rest_until)
        if q is None:
            continue
        extra += layout.moves_added(p, q)
        gain -= layout.swap_cost(p, q)
        layout.swap(p, q)
        rest_until[p] = rest_until[q] = turn + REST + turn % REST
        for k in range(1 - layout.gap, layout.gap):
            conflicts |= dict.fromkeys(((p + k) & layout.mask, (q + k) & layout.mask))
        if gain > best_gain:
            best, best_gain = list(owners), gain
    owners[:] = best


def _least_bad(
    layout: Layout, p: int, moves_max: int, turn: int, rest_until: Mapping[int, int]
) -> int | None:
    """The place to swap p with that does best, of those nearby and some afar."""
    owners, places = layout.owners, len(layout.owners)
    reach = range(1, 2 * layout.gap)
    near = [(p + k) & layout.mask for k in reach] + [(p - k) & layout.mask for k in reach]
    node = owners[p]
    best: tuple[int, int] | None = None
    best_place: int | None = None
    for q in chain(near, islice(scattered(places, p + 1 + turn * places), WANDER_PARTNERS_MAX)):
        if owners[q] == node or rest_until.get(q, 0) > turn:
            continue
        added = layout.moves_added(p, q)
        if added > moves_max:
            continue
        change = layout.swap_cost(p, q)
        if best is None or (change, added) < best:
            best, best_place = (change, added), q
    return best_place


def _best_swap(
    layout: Layout, p: int, moves_max: int, worst: int, seed: int
) -> tuple[int | None, int]:
    """The place to swap p with, if one changes the cost by `worst` or less, and how many
    places were looked at."""
    owners = layout.owners
    node = owners[p]
    cost_here = layout.cost(p, node)
    if not cost_here:
        return None, 0
    cost_of: dict[int, int] = {}  # what another node would cost at p, if it comes from afar
    best: tuple[int, int] | None = None
    best_place: int | None = None
    seen = 0
    for q in islice(scattered(len(owners), p + 1 + seed * len(owners)), PARTNERS_MAX):
        seen += 1
        other = owners[q]
        if other == node or layout.moves_added(p, q) > moves_max:
            continue
        if not layout.near(p, q):
            if other not in cost_of:
                cost_of[other] = layout.cost(p, other)
            if cost_of[other] > cost_here + worst:
                continue
        change = layout.swap_cost(p, q)
        if change <= worst and (best is None or (change, layout.moves_added(p, q)) < best):
            best, best_place = (change, layout.moves_added(p, q)), q
            if change <= -cost_here or change == worst == 0:
                break  # p is at peace at no cost to q, or a way sideways is found
    return best_place, seen
