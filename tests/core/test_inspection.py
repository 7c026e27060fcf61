"""What several replicas' accounts of one key mean together, and their bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core import inspection, objects
from dynamo_core.errors import Corrupt
from dynamo_core.inspection import HAS, REPLACED, UNSEEN, Standing, Told, cut
from dynamo_core.objects import ABSENT, Object, Sibling
from dynamo_core.versions import EMPTY, Clock

A, B = b"A" * 16, b"B" * 16


def sibling(actor: bytes, n: int, value: bytes | None = b"value") -> Sibling:
    return Sibling((actor, n), actor[:8] + n.to_bytes(8, "big"), 1_700_000_000_000, "x/y", value)


def told(held: Object, hint_for: int = 0, value_bytes: int = 100) -> Told:
    return Told(Standing.COUNTS, (cut(hint_for, objects.to_bytes(held), value_bytes),))


def test_concurrent_versions_all_stand() -> None:
    one = objects.put(ABSENT, EMPTY, sibling(A, 1))
    both = objects.merge(one, objects.put(ABSENT, EMPTY, sibling(B, 1)))
    found = inspection.versions({1: told(both), 2: told(one)})
    assert [(v.sibling.dot, v.stands, dict(v.seen)) for v in found] == [
        ((A, 1), True, {1: HAS, 2: HAS}),
        ((B, 1), True, {1: HAS, 2: UNSEEN}),
    ]


def test_a_version_that_one_replica_has_seen_replaced_does_not_stand() -> None:
    old = objects.put(ABSENT, EMPTY, sibling(A, 1))
    new = objects.put(old, Clock({A: 1}), sibling(A, 2, None))
    found = inspection.versions({1: told(new), 2: told(old), 3: Told(Standing.COUNTS, ())})
    assert [(v.sibling.dot, v.stands, dict(v.seen)) for v in found] == [
        ((A, 2), True, {1: HAS, 2: UNSEEN, 3: UNSEEN}),
        ((A, 1), False, {1: REPLACED, 2: HAS, 3: UNSEEN}),
    ]


def test_the_longest_part_of_a_value_is_shown() -> None:
    held = objects.put(ABSENT, EMPTY, sibling(A, 1, b"0123456789"))
    [version] = inspection.versions({1: told(held, value_bytes=3), 2: told(held, 7, value_bytes=5)})
    assert (version.sibling.value, version.length) == (b"01234", 10)


def test_values_of_one_record_are_bounded_together() -> None:
    held = ABSENT
    for n in range(1, 5):
        held = objects.put(held, EMPTY, sibling(A, n, bytes(1 << 20)))
    record = cut(0, objects.to_bytes(held), 1 << 20)
    sizes = [len(s.value or b"") for s in record.held.siblings]
    assert sum(sizes) <= inspection.VALUES_BYTES_MAX
    assert record.lengths == (1 << 20,) * 4


def test_an_account_survives_its_bytes() -> None:
    held = objects.put(ABSENT, EMPTY, sibling(A, 1))
    both = objects.put(held, EMPTY, sibling(B, 3, None))
    account = Told(Standing.LEARNS, (*told(both).records, *told(held, 7).records))
    assert inspection.unpack_told(inspection.pack_told(account)) == account


@given(st.binary(max_size=80), st.integers(0, 255), st.data())
def test_any_bytes_are_an_account_or_corrupt(junk: bytes, at: int, data: st.DataObject) -> None:
    packed = inspection.pack_told(told(objects.put(ABSENT, EMPTY, sibling(A, 1))))
    if data.draw(st.booleans()):
        junk = packed[: at % len(packed)] + junk
    try:
        account = inspection.unpack_told(junk)
    except Corrupt:
        return
    assert inspection.pack_told(account) == junk


@pytest.mark.parametrize("payload", [b"", b"\x00\x00\x00\x01"])
def test_a_question_without_a_key_is_corrupt(payload: bytes) -> None:
    with pytest.raises(Corrupt):
        inspection.unpack_ask(payload)


def test_a_question_survives_its_bytes() -> None:
    assert inspection.unpack_ask(inspection.pack_ask(b"k", 7)) == (b"k", 7)
