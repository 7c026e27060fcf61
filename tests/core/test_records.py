"""Records: the local header comes back as it was; what this version didn't write is Corrupt."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core import records
from dynamo_core.errors import Corrupt
from dynamo_core.records import Record, Stamp

DOTS = st.tuples(st.binary(min_size=16, max_size=16), st.integers(1, 2**64 - 1))
RECORDS = st.builds(
    Record,
    st.binary(max_size=60),
    st.none() | DOTS,
    st.none()
    | st.builds(
        Stamp,
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=8, max_size=8),
    ),
)


@given(RECORDS)
def test_round_trip(record: Record) -> None:
    data = records.to_bytes(record)
    assert records.from_bytes(data) == record
    assert records.object_of(data) == record.obj


@given(st.binary(max_size=60))
def test_random_bytes_are_corrupt_or_a_record(data: bytes) -> None:
    with suppress(Corrupt):
        assert records.to_bytes(records.from_bytes(data)) == data


@given(RECORDS.filter(lambda r: r.mark is not None or r.stamp is not None), st.data())
def test_a_header_that_ends_early_is_corrupt(record: Record, data: st.DataObject) -> None:
    packed = records.to_bytes(record)
    header = len(packed) - len(record.obj)
    with pytest.raises(Corrupt):
        records.from_bytes(packed[: data.draw(st.integers(0, header - 1))])


def test_a_flag_of_a_later_version_is_refused_not_ignored() -> None:
    with pytest.raises(Corrupt, match="header"):
        records.from_bytes(b"\x08object")


@given(st.integers(0, 2**32 - 1), st.binary(min_size=16, max_size=16), st.binary(min_size=1))
def test_a_targets_hints_are_contiguous(target: int, digest: bytes, key: bytes) -> None:
    place = records.hint_key(target, digest, key)
    assert place == target.to_bytes(4, "big") + digest + key
