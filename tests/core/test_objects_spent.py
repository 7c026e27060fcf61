"""What a round may take of a living key: what of its clock nothing living needs."""

from hypothesis import given
from hypothesis import strategies as st

from dynamo_core import objects
from dynamo_core.actors import actor_bytes
from dynamo_core.objects import SPENT_MIN, Object, Sibling
from dynamo_core.versions import Clock, Dot


def _dot(node: int, counter: int) -> Dot:
    return actor_bytes(node, bytes(8), 1), counter


def _sibling(dot: Dot, value: bytes | None = b"v") -> Sibling:
    return Sibling(dot, dot[0][:15] + bytes((dot[1],)), 0, "", value)


def _object(entries: int, *living: Dot, tombstones: tuple[Dot, ...] = ()) -> Object:
    clock = Clock({_dot(n, 1)[0]: 3 for n in range(1, entries + 1)})
    siblings = [_sibling(d) for d in living] + [_sibling(d, None) for d in tombstones]
    for sibling in siblings:
        clock = clock.with_dot(sibling.dot)
    return Object(clock, tuple(sorted(siblings, key=lambda s: (s.dot, s.write_id))))


def _reapable(held: Object) -> bool:
    encoded = objects.to_bytes(held)
    assert objects.reapable(encoded) == objects.reapable(objects.head_of(encoded))
    return objects.reapable(encoded)


def test_a_living_key_is_worth_a_round_from_so_many_spent_entries_on() -> None:
    assert not _reapable(_object(SPENT_MIN, _dot(1, 3)))
    assert _reapable(_object(SPENT_MIN + 1, _dot(1, 3)))
    # An actor with an entry and a dot beyond it is no spent entry, however many there are.
    many = [_dot(n, 5) for n in range(1, 2 * SPENT_MIN)]
    assert not _reapable(_object(2 * SPENT_MIN - 1, *many))
    assert _reapable(_object(0, tombstones=(_dot(1, 1),)))


def test_what_is_left_is_what_lives_and_its_actors_entries() -> None:
    held = _object(5, _dot(2, 3), _dot(3, 9), tombstones=(_dot(4, 8), _dot(9, 1)))
    left = objects.retired(held)
    assert left.siblings == (_sibling(_dot(2, 3)), _sibling(_dot(3, 9)))
    assert left.clock == Clock({_dot(2, 1)[0]: 3, _dot(3, 1)[0]: 3}, [_dot(3, 9)])
    assert objects.from_bytes(objects.to_bytes(left)) == left


DOTS = st.builds(_dot, st.integers(1, 12), st.integers(1, 6))


@given(st.integers(0, 12), st.sets(DOTS, min_size=1, max_size=5), st.sets(DOTS, max_size=4))
def test_retiring_ends(entries: int, living: set[Dot], dead: set[Dot]) -> None:
    held = _object(entries, *living, tombstones=tuple(dead - living))
    left = objects.retired(held)
    assert objects.retired(left) == left
    assert not _reapable(left)
    assert held.clock.descends(left.clock)
    # Whoever still has all of it brings it back whole: nothing is lost by the order.
    both = objects.merge_bytes(objects.to_bytes(left), objects.to_bytes(held))
    merged = objects.from_bytes(both)
    assert merged.clock == held.clock
    assert {s for s in merged.siblings if s.value is not None} == set(left.siblings)
