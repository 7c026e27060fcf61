"""What both sides of a slot tell each other, and what their disks say, in bytes."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core import handover_messages as messages
from dynamo_core import slots, tenures
from dynamo_core.copies import COMPLETE
from dynamo_core.errors import Corrupt
from dynamo_core.frames import RingName
from dynamo_core.handover import Answer
from dynamo_core.handover_messages import About, Covered, End, Given, Offer, Pull, What
from dynamo_core.rounds import Kept, Listed, State
from dynamo_core.slots import Token
from dynamo_core.tenures import Asked, Custodies, Held, Pulling, Seal, Stage

ABOUT = About(8191, 2, Token(7, 3, 9), b"digest!!")
ROW = (Token(7, 3, 9), Token(1, 0, 2))
KEPT = Kept(4, RingName(3, b"r" * 16), (1, 2), (Listed(b"d" * 16 + b"key", b"l" * 16),))
PULL = Pull(ABOUT, What.PAGE, b"place")
GIVEN = Given(State(7, 4, RingName(3, b"r" * 16), (5, 7)), True, b"a page")
END = End(b"r" * 16, COMPLETE, KEPT)

SAMPLES: list[tuple[Callable[[bytes], Any], bytes, Any]] = [
    (messages.unpack_pull, messages.pack_pull(PULL), PULL),
    (messages.unpack_pull_reply, messages.pack_given(GIVEN), (Answer.GIVEN, GIVEN, ())),
    (messages.unpack_tree, messages.pack_tree(b"s" * 4096, KEPT), (b"s" * 4096, KEPT)),
    (messages.unpack_tree, messages.pack_tree(b"s" * 4096, None), (b"s" * 4096, None)),
    (
        messages.unpack_pull_reply,
        messages.pack_denied(Answer.NOT_NOW, ROW),
        (Answer.NOT_NOW, None, ROW),
    ),
    (messages.unpack_seal, messages.pack_seal(ABOUT), ABOUT),
    (messages.unpack_seal_reply, messages.pack_sealed(END), (Answer.GIVEN, END, ())),
    (
        messages.unpack_seal_reply,
        messages.pack_denied(Answer.NOT_YOU, ROW),
        (Answer.NOT_YOU, None, ROW),
    ),
    (messages.unpack_offer, messages.pack_offer(Offer(ABOUT, True, END)), Offer(ABOUT, True, END)),
    (messages.unpack_offer_reply, messages.pack_offer_reply(True, ROW), (True, ROW)),
    (
        messages.unpack_covered,
        messages.pack_covered(Covered(ABOUT, False, b"r" * 16, ROW)),
        Covered(ABOUT, False, b"r" * 16, ROW),
    ),
]
RECORD = Custodies(
    {0: Held(Token(1, 2, 3), Stage.TAKEN), 2: Held(Token(4, 0, 3), Stage.COUNTS)},
    {1: Seal(Token(1, 0, 3), 4)},
    Pulling(1, Token(5, 6, 7), 8, Asked.MAYBE, True, b"place"),
)


@pytest.mark.parametrize(("unpack", "data", "value"), SAMPLES)
def test_messages_come_back_as_they_were(
    unpack: Callable[[bytes], Any], data: bytes, value: Any
) -> None:
    assert unpack(data) == value


@pytest.mark.parametrize("unpack", sorted({s[0] for s in SAMPLES}, key=lambda f: f.__name__))
@given(data=st.data())
def test_whatever_comes_is_a_message_or_corrupt(
    unpack: Callable[[bytes], Any], data: st.DataObject
) -> None:
    whole = data.draw(st.sampled_from([s[1] for s in SAMPLES if s[0] is unpack] + [b""]))
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    changed = bytearray(cut + data.draw(st.binary(max_size=3)))
    if changed:
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(0, 255))
    with contextlib.suppress(Corrupt):
        unpack(bytes(changed))


def test_an_answer_that_was_changed_on_its_way_is_found_out() -> None:
    data = bytearray(messages.pack_given(GIVEN))
    data[-1] ^= 1
    with pytest.raises(Corrupt, match="checksum"):
        messages.unpack_pull_reply(bytes(data))


@pytest.mark.parametrize(
    ("unpack", "data"),
    [
        (messages.unpack_seal, messages.pack_seal(ABOUT) + b"x"),
        (messages.unpack_seal, messages.pack_seal(ABOUT._replace(slot=16))),
        (messages.unpack_seal_reply, b""),
        (messages.unpack_seal_reply, b"\x09"),
        (messages.unpack_seal_reply, messages.pack_sealed(END)[:17]),
        (messages.unpack_pull, messages.pack_seal(ABOUT)),
        (messages.unpack_pull, messages.pack_seal(ABOUT) + b"\x05"),
        (messages.unpack_tree, b"s" * 4095),
        (messages.unpack_offer, messages.pack_seal(ABOUT) + b"\x02"),
        (messages.unpack_offer_reply, b"\x02" + slots.row_to_bytes(ROW)),
        (messages.unpack_covered, messages.pack_seal(ABOUT) + b"\x00" * 16),
    ],
)
def test_malformed_messages(unpack: Callable[[bytes], Any], data: bytes) -> None:
    with pytest.raises(Corrupt):
        unpack(data)


@pytest.mark.parametrize("record", [RECORD, RECORD._replace(pulling=None)])
def test_the_record_on_disk(record: Custodies) -> None:
    data = tenures.record_to_bytes(record)
    assert data is not None
    assert tenures.record_from_bytes(data) == record
    if record.pulling is None:  # with a half-pulled copy the rest is its cursor
        with pytest.raises(Corrupt):
            tenures.record_from_bytes(data + b"\x00")
    for at in range(len(data) - len(b"place")):
        with pytest.raises(Corrupt):
            tenures.record_from_bytes(data[:at])


def test_a_node_that_has_no_part_keeps_no_record() -> None:
    assert tenures.record_to_bytes(Custodies({}, {}, None)) is None


@given(st.binary(max_size=90))
def test_whatever_is_on_disk_is_a_record_or_corrupt(data: bytes) -> None:
    with contextlib.suppress(Corrupt):
        tenures.record_from_bytes(data)
