"""Context tokens: round trip, rotation, and everything else is the caller's error."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core.contexts import NO_CONTEXT, SECRET_BYTES, Context, Keyring, peek
from dynamo_core.errors import CallerError
from dynamo_core.versions import EMPTY, Clock

KEY = "wagen:ü".encode()
RING = Keyring(1, {1: b"1" * SECRET_BYTES})
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

actors = st.binary(min_size=16, max_size=16)
clocks = st.builds(
    Clock,
    st.dictionaries(actors, st.integers(1, 1 << 40), max_size=4),
    st.lists(st.tuples(actors, st.integers(1, 1 << 40)), max_size=3),
)
CLOCK = Clock({b"a" * 16: 3}, [(b"b" * 16, 9)])
TOKEN = RING.seal(KEY, CLOCK.to_bytes(), 4, 2)


@given(
    st.binary(max_size=300), clocks, st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1)
)
def test_round_trip(key: bytes, clock: Clock, reap_round: int, fastest: int) -> None:
    token = RING.seal(key, clock.to_bytes(), reap_round, fastest)
    assert set(token) <= set(ALPHABET)
    assert RING.open(key, token) == Context(clock, reap_round, fastest)
    assert peek(token) == clock


def test_defaults() -> None:
    assert RING.open(KEY, RING.seal(KEY, EMPTY.to_bytes())) == NO_CONTEXT


@given(st.binary(max_size=40).filter(lambda key: key != KEY))
def test_another_key(key: bytes) -> None:
    with pytest.raises(CallerError, match="for this key"):
        RING.open(key, TOKEN)


@given(st.integers(1, 8), st.binary(max_size=8))
def test_bytes_never_move_between_context_and_key(cut: int, more: bytes) -> None:
    body = urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4))
    moved = urlsafe_b64encode(body[:-cut]).rstrip(b"=").decode()
    for key in (KEY + more, body[-cut:] + KEY, KEY[:-1]):
        with pytest.raises(CallerError):
            RING.open(key, moved)


def test_another_cluster() -> None:
    other = Keyring(1, {1: b"2" * SECRET_BYTES})
    with pytest.raises(CallerError):
        other.open(KEY, TOKEN)


def test_rotation() -> None:
    """A new key verifies first everywhere, then signs; the old one goes last."""
    old, new = b"1" * SECRET_BYTES, b"2" * SECRET_BYTES
    both, turned = Keyring(1, {1: old, 2: new}), Keyring(2, {1: old, 2: new})
    assert both.open(KEY, TOKEN).clock == CLOCK
    fresh = turned.seal(KEY, CLOCK.to_bytes())
    assert both.open(KEY, fresh) == turned.open(KEY, fresh) == Context(CLOCK)
    retired = Keyring(2, {2: new})
    assert retired.open(KEY, fresh).clock == CLOCK
    for ring, token in ((retired, TOKEN), (RING, fresh), (Keyring(1, {1: new}), fresh)):
        with pytest.raises(CallerError):
            ring.open(KEY, token)


@given(st.text(max_size=120))
def test_any_text(text: str) -> None:
    with pytest.raises(CallerError):
        RING.open(KEY, text)


@given(st.text(alphabet=ALPHABET + "=+/ \n", max_size=120))
def test_any_base64(text: str) -> None:
    with pytest.raises(CallerError):
        RING.open(KEY, text)


@given(st.binary(max_size=120))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(CallerError):
        RING.open(KEY, urlsafe_b64encode(data).rstrip(b"=").decode())


@given(st.integers(0, len(TOKEN) - 1))
def test_cut(length: int) -> None:
    for part in (TOKEN[:length], TOKEN[length + 1 :], TOKEN[:length] + TOKEN[length + 1 :]):
        with pytest.raises(CallerError):
            RING.open(KEY, part)


@given(st.integers(0, len(TOKEN)), st.sampled_from([*ALPHABET, "=", "+", "\n", " ", "ü", "\ud800"]))
def test_extended_or_changed(at: int, character: str) -> None:
    """Also what a lenient base64 decoder would skip: padding, line ends, foreign letters."""
    with pytest.raises(CallerError):
        RING.open(KEY, TOKEN[:at] + character + TOKEN[at:])
    changed = TOKEN[:at] + character + TOKEN[at + 1 :]
    if changed != TOKEN:
        with pytest.raises(CallerError):
            RING.open(KEY, changed)


@given(st.integers(0, 8 * 64))
def test_any_flipped_bit(bit: int) -> None:
    data = bytearray(urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4)))
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    with pytest.raises(CallerError):
        RING.open(KEY, urlsafe_b64encode(data).rstrip(b"=").decode())


@pytest.mark.parametrize(
    "clock",
    [b"", b"\0", b"\0\0\0", b"\0\1\0\0", EMPTY.to_bytes() + b"\0", CLOCK.to_bytes()[:-1]],
)
def test_well_signed_nonsense(clock: bytes) -> None:
    with pytest.raises(CallerError):
        RING.open(KEY, RING.seal(KEY, clock))


@pytest.mark.parametrize(
    ("signing_id", "secrets", "message"),
    [
        (2, {1: b"1" * 32}, "signing key 2"),
        (256, {256: b"1" * 32}, "256 is outside"),
        (-1, {-1: b"1" * 32}, "-1 is outside"),
        (1, {1: b"short"}, "5 bytes"),
        (1, {}, "signing key 1"),
    ],
)
def test_keyring_is_checked(signing_id: int, secrets: dict[int, bytes], message: str) -> None:
    with pytest.raises(CallerError, match=message):
        Keyring(signing_id, secrets)


def test_a_keyring_never_prints_its_secrets() -> None:
    text = repr(Keyring(1, {1: b"S" * SECRET_BYTES}))
    assert "SSSS" not in text
    assert "1" in text


@given(st.text(max_size=60) | st.text(ALPHABET, max_size=200))
def test_a_peek_at_what_is_no_token(text: str) -> None:
    with suppress(CallerError):
        assert isinstance(peek(text), Clock)
