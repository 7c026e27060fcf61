"""A write that is tried again where its first try has come: nothing is left to do for it."""

from random import Random

from dynamo_core import objects
from dynamo_core.actors import actor_bytes
from dynamo_core.objects import ABSENT, Object, Sibling
from dynamo_core.versions import EMPTY, Clock, Dot

WRITES = [(bytes(15) + bytes((i,)), "t", value) for i, value in enumerate((b"a", b"b", b"", None))]


def _dot(node: int, counter: int) -> Dot:
    return actor_bytes(node, bytes(8), 1), counter


def _put(held: Object, context: Clock, dot: Dot, write: tuple[bytes, str, bytes | None]) -> Object:
    write_id, kind, value = write
    return objects.put(held, context, Sibling(dot, write_id, 0, kind, value))


def test_what_was_not_there_before_is_minted() -> None:
    assert objects.written_before(ABSENT, EMPTY, WRITES[0]) is None
    held = _put(ABSENT, EMPTY, _dot(1, 1), WRITES[0])
    assert objects.written_before(held, EMPTY, WRITES[1]) is None
    assert objects.written_before(held, EMPTY, (WRITES[0][0], "t", b"other")) is None


def test_a_try_elsewhere_keeps_its_dot() -> None:
    held = _put(ABSENT, EMPTY, _dot(1, 1), WRITES[0])
    assert objects.written_before(held, EMPTY, WRITES[0]) == _dot(1, 1)
    other = objects.merge(held, _put(ABSENT, EMPTY, _dot(2, 1), WRITES[1]))
    assert objects.written_before(other, EMPTY, WRITES[0]) == _dot(1, 1)


def test_a_write_id_used_anew_with_the_context_of_the_first_is_another_write() -> None:
    held = _put(ABSENT, EMPTY, _dot(1, 1), WRITES[0])
    assert objects.written_before(held, held.clock, WRITES[0]) is None
    beside = objects.merge(held, _put(ABSENT, EMPTY, _dot(2, 1), WRITES[1]))
    seen = EMPTY.with_dot(_dot(2, 1))
    assert objects.written_before(beside, seen, WRITES[0]) is None, "one is left to replace"


def test_a_context_that_is_not_here_yet_is_minted() -> None:
    held = _put(ABSENT, EMPTY, _dot(1, 1), WRITES[0])
    assert objects.written_before(held, EMPTY.with_dot(_dot(3, 1)), WRITES[0]) is None


def test_to_leave_it_out_shows_and_covers_what_a_second_dot_would() -> None:
    """Over random histories of two replicas: same values shown, same clock but for that dot."""
    skipped = 0
    for seed in range(3000):
        rng = Random(seed)
        copies, contexts, counter = [ABSENT, ABSENT], [EMPTY], 0
        for _ in range(rng.randint(2, 12)):
            at = rng.randrange(2)
            if rng.random() < 0.4:
                copies[at] = objects.merge(*copies)
                contexts.append(copies[at].clock)
                continue
            counter += 1
            context, write, dot = rng.choice(contexts), rng.choice(WRITES), _dot(at + 1, counter)
            before = objects.written_before(copies[at], context, write)
            after = _put(copies[at], context, dot, write)
            if before is None:
                copies[at] = after
                contexts.append(context.with_dot(dot))
                continue
            skipped += 1
            assert after.clock == copies[at].clock.with_dot(dot)
            assert {s for s in after.siblings if s.dot != dot} == {*copies[at].siblings}
            values = [(s.write_id, s.value) for s in objects.shown(copies[at])]
            assert sorted(values) == sorted((s.write_id, s.value) for s in objects.shown(after))
            contexts.append(context.with_dot(before))
    assert skipped > 500
