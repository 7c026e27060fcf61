"""Wire: every message comes back as it was, and foreign bytes give Corrupt and nothing else."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_core import wire
from dynamo_core.errors import Corrupt
from dynamo_core.handshake import unpack_hello
from dynamo_core.objects import Sibling
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.wire import Code, Found, Lease, Op, Operation, Write

U8 = st.integers(0, 255)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
KEYS = st.binary(min_size=1, max_size=1024)
TEXTS = st.text(max_size=60)
TYPES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=255)
WRITE_IDS = st.binary(min_size=16, max_size=16)
SIBLINGS = st.builds(
    Sibling,
    st.tuples(st.binary(min_size=16, max_size=16), st.integers(1, 2**64 - 1)),
    st.just(bytes(16)),
    U64,
    TYPES,
    st.binary(max_size=100),
)

DECODERS: list[Callable[[bytes], object]] = [
    wire.unpack_read,
    wire.unpack_read_reply,
    wire.unpack_write,
    wire.unpack_operation,
    wire.unpack_outcome,
    wire.unpack_lease,
    wire.unpack_error,
    unpack_hello,
]


@given(KEYS, st.booleans())
def test_read(key: bytes, whole: bool) -> None:
    assert wire.unpack_read(wire.pack_read(key, whole)) == (key, whole)


@given(st.sampled_from(Found), U64, st.binary(max_size=60), U64)
def test_read_reply(found: Found, reap_round: int, data: bytes, committed: int) -> None:
    packed = wire.pack_read_reply(found, reap_round, data, committed)
    assert wire.unpack_read_reply(packed) == (found, reap_round, data, committed)


@given(KEYS, st.binary(min_size=1, max_size=60), U32, U64, st.booleans())
def test_write(key: bytes, obj: bytes, hint_for: int, reap_round: int, sync: bool) -> None:
    packed = wire.pack_write(key, obj, hint_for, reap_round, sync)
    assert wire.unpack_write(packed) == Write(key, obj, hint_for, reap_round, sync)


@given(
    st.builds(
        Operation,
        st.sampled_from(Op),
        KEYS,
        U8,
        WRITE_IDS,
        TEXTS,
        TYPES,
        st.binary(max_size=100),
    )
)
def test_operation(operation: Operation) -> None:
    assert wire.unpack_operation(wire.pack_operation(operation)) == operation


@given(
    st.builds(
        Outcome,
        st.sampled_from(Kind),
        TEXTS,
        st.lists(SIBLINGS, max_size=3).map(tuple),
        U8,
        U8,
        U8,
        U8,
        TEXTS,
    )
)
def test_outcome(outcome: Outcome) -> None:
    assert wire.unpack_outcome(wire.pack_outcome(outcome)) == outcome


@given(st.builds(Lease, U32, st.binary(min_size=8, max_size=8), U32, U32))
def test_lease(lease: Lease) -> None:
    assert wire.unpack_lease(wire.pack_lease(lease)) == lease


@given(st.sampled_from(Code), TEXTS)
def test_error(code: Code, text: str) -> None:
    assert wire.unpack_error(wire.pack_error(code, text)) == (code, text)


def test_a_context_of_thousands_of_dots_fits() -> None:
    """Two writers that never read make each other's contexts one dot longer per write."""
    token = "x" * 100_000
    operation = Operation(Op.PUT, b"k", context=token, value=b"v")
    assert wire.unpack_operation(wire.pack_operation(operation)) == operation
    outcome = Outcome(Kind.WRITTEN, token, primary=2, needed=2, got=2)
    assert wire.unpack_outcome(wire.pack_outcome(outcome)) == outcome


@pytest.mark.parametrize("decode", DECODERS, ids=lambda d: d.__name__)
@settings(max_examples=150)
@given(data=st.binary(max_size=120))
def test_random_bytes_are_corrupt_or_a_message(
    decode: Callable[[bytes], object], data: bytes
) -> None:
    with suppress(Corrupt):
        decode(data)


@settings(max_examples=150)
@given(st.sampled_from(["operation", "outcome", "write"]), st.integers(0, 500), U8, st.data())
def test_a_damaged_message_is_corrupt_or_another_message(
    which: str, at: int, byte: int, data: st.DataObject
) -> None:
    """Near misses get further into the decoders than random bytes do."""
    value = Sibling((bytes(16), 1), bytes(16), 5, "text/plain", b"value")
    packed = {
        "operation": wire.pack_operation(Operation(Op.PUT, b"key", 2, bytes(16), "t", "a/b", b"v")),
        "outcome": wire.pack_outcome(Outcome(Kind.VALUES, "token", (value, value), 2, 0, 2, 2)),
        "write": wire.pack_write(b"key", b"object", 3, 0, False),
    }[which]
    damaged = bytearray(packed)
    damaged[at % len(damaged)] = byte
    end = data.draw(st.integers(0, len(damaged)))
    decode = {
        "operation": wire.unpack_operation,
        "outcome": wire.unpack_outcome,
        "write": wire.unpack_write,
    }[which]
    for cut in (bytes(damaged), bytes(damaged[:end])):
        with suppress(Corrupt):
            decode(cut)
