"""Frames: any chunking gives the same frames, and a hostile stream only ever gives Corrupt."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_core.errors import Corrupt
from dynamo_core.frames import (
    HANDSHAKE_BYTES_MAX,
    HEADER,
    NO_DEADLINE,
    NO_RING,
    TRACE_BYTES,
    Frame,
    FrameReader,
    RingName,
    pack_frame,
)

U32 = st.integers(0, 2**32 - 1)
RINGS = st.builds(RingName, st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16))
TRACES = st.one_of(st.just(b""), st.binary(min_size=TRACE_BYTES, max_size=TRACE_BYTES))
FRAMES = st.tuples(st.integers(0, 255), U32, U32, RINGS, st.binary(max_size=200), TRACES)
LENGTH_MIN = HEADER.size - 4


def _cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(c % (len(stream) + 1) for c in cuts)})
    return [stream[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 10_000), max_size=20))
def test_any_chunking_gives_the_same_frames(
    sent: list[tuple[int, int, int, RingName, bytes, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(pack_frame(*fields) for fields in sent)
    reader = FrameReader()
    got = [frame for chunk in _cut(stream, cuts) for frame in reader.feed(chunk)]
    assert [
        (f.type, f.request_id, f.remaining_ms, (f.epoch, f.ring_id), f.payload, f.trace)
        for f in got
    ] == [tuple(fields) for fields in sent]
    assert reader.unfinished_bytes == 0


def test_a_frame_byte_by_byte_is_given_with_its_last_byte() -> None:
    stream = pack_frame(18, 7, 250, NO_RING, b"payload", bytes(TRACE_BYTES))
    reader = FrameReader()
    for at in range(len(stream) - 1):
        assert reader.feed(stream[at : at + 1]) == []
        assert reader.unfinished_bytes == at + 1
    [frame] = reader.feed(stream[-1:])
    assert frame == Frame(18, 1, 7, 250, 0, bytes(16), bytes(TRACE_BYTES), b"payload")


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=120), max_size=6))
def test_random_bytes_give_frames_or_corrupt(chunks: list[bytes]) -> None:
    reader = FrameReader()
    for chunk in chunks:
        try:
            reader.feed(chunk)
        except Corrupt:
            return
        assert reader.unfinished_bytes <= HANDSHAKE_BYTES_MAX + 4


@settings(max_examples=200)
@given(st.lists(FRAMES, min_size=1, max_size=3), st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_gives_frames_or_corrupt(
    sent: list[tuple[int, int, int, RingName, bytes, bytes]], at: int, flip: int
) -> None:
    stream = bytearray(b"".join(pack_frame(*fields) for fields in sent))
    stream[at % len(stream)] ^= flip
    try:
        FrameReader().feed(bytes(stream))
    except Corrupt:
        return


@pytest.mark.parametrize("length", [0, 1, LENGTH_MIN - 1, HANDSHAKE_BYTES_MAX + 1, 2**32 - 1])
def test_a_wrong_length_is_refused_as_soon_as_it_is_known(length: int) -> None:
    """Four bytes are enough: nobody makes this side wait for, or keep, four gigabytes."""
    reader = FrameReader()
    prefix = length.to_bytes(4, "big")
    assert reader.feed(prefix[:3]) == []
    with pytest.raises(Corrupt, match=f"claims {length} bytes; {LENGTH_MIN}..4096 are allowed"):
        # A length that is too short is known to be wrong when it has come, at the latest.
        reader.feed(prefix[3:] + bytes(min(length, LENGTH_MIN)))


def test_the_limit_may_be_raised_once_the_peer_is_known() -> None:
    long = pack_frame(18, 1, NO_DEADLINE, NO_RING, bytes(HANDSHAKE_BYTES_MAX))
    with pytest.raises(Corrupt):
        FrameReader().feed(long)
    reader = FrameReader()
    reader.frame_bytes_max = 1 << 20
    assert reader.feed(long[:1000]) == []
    assert len(reader.feed(long[1000:])) == 1


def test_a_promised_trace_that_does_not_fit_is_corrupt() -> None:
    short = bytearray(pack_frame(16, 1, NO_DEADLINE, NO_RING, bytes(TRACE_BYTES - 1)))
    short[5] |= 1
    with pytest.raises(Corrupt, match="promises a trace context"):
        FrameReader().feed(bytes(short))


@pytest.mark.parametrize("length", [1, TRACE_BYTES - 1, TRACE_BYTES + 1])
def test_a_trace_of_another_length_is_not_sent(length: int) -> None:
    with pytest.raises(ValueError, match=f"has {length} bytes, not 25"):
        pack_frame(16, 1, NO_DEADLINE, NO_RING, b"payload", bytes(length))
