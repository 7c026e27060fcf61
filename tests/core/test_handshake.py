"""Handshake: transcripts of who may talk to whom, and of everybody who may not.

Each transcript is the list of what was said; the last line is what it came to.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core.contexts import Keyring
from dynamo_core.errors import CallerError, Corrupt, DynamoError
from dynamo_core.handshake import (
    ROLE_CLIENT,
    ROLE_NODE,
    Acceptor,
    Caller,
    ClientCaller,
    Hello,
    Identity,
    pack_hello,
    unpack_hello,
)

CART, SHOP = b"\xca" * 16, b"\x5b" * 16
OLD, NEW = {1: b"o" * 32}, {1: b"o" * 32, 2: b"n" * 32}
A = Identity(CART, "cart-0", 1, b"incarn-a", Keyring(1, OLD))
B = Identity(CART, "cart-1", 2, b"incarn-b", Keyring(1, OLD))
NONCE_A, NONCE_B = b"a" * 16, b"b" * 16


@dataclass
class Talk:
    """One connection that `caller` opens to `acceptor`, meaning to reach `target`."""

    caller: Identity = A
    acceptor: Identity = B
    target: str = "cart-1"
    role: int = ROLE_NODE
    nonce: bytes = NONCE_B
    replaced: set[tuple[int, bytes]] = field(default_factory=set)
    on_hello: Callable[[bytes], bytes] = lambda payload: payload
    on_challenge: Callable[[bytes], bytes] = lambda payload: payload
    on_proof: Callable[[bytes], bytes] = lambda payload: payload

    def run(self) -> list[str]:
        caller = Caller(self.caller, self.target, NONCE_A, self.role)
        acceptor = Acceptor(self.acceptor, self.nonce, lambda n, _, i: (n, i) in self.replaced)
        lines = []

        def step(who: str, act: Callable[[], bytes]) -> bytes | None:
            try:
                return act()
            except DynamoError as error:
                lines.append(f"{who} refuses: {error}")
                return None

        lines.append(f"{self.caller.name} -> hello to {self.target}")
        challenge = step("acceptor", lambda: acceptor.hello(self.on_hello(caller.hello())))
        if challenge is None:
            return lines
        lines.append(f"{self.acceptor.name} -> challenge")
        proof = step("caller", lambda: caller.challenge(self.on_challenge(challenge)))
        if proof is None:
            return lines
        lines.append(f"{self.caller.name} -> proof")
        if step("acceptor", lambda: acceptor.proof(self.on_proof(proof)).name.encode()) is None:
            return lines
        assert caller.incarnation == self.acceptor.incarnation
        lines.append(f"{self.acceptor.name} -> welcome {acceptor.caller.name}")
        return lines


GOOD = [
    "cart-0 -> hello to cart-1",
    "cart-1 -> challenge",
    "cart-0 -> proof",
    "cart-1 -> welcome cart-0",
]


def test_two_nodes_of_one_cluster() -> None:
    assert Talk().run() == GOOD


def test_the_acceptor_is_of_another_cluster() -> None:
    """A pod's address now belongs to another cluster's pod."""
    assert Talk(acceptor=replace(B, cluster_id=SHOP)).run() == [
        "cart-0 -> hello to cart-1",
        f"acceptor refuses: this node is of cluster {SHOP.hex()}, not of {CART.hex()}",
    ]


def test_an_acceptor_that_does_not_check_is_refused_by_the_caller() -> None:
    """Both sides look: what another cluster's node answers is no proof either."""
    foreign = replace(B, cluster_id=SHOP)
    rewritten = Talk(acceptor=foreign, on_hello=lambda p: p[:3] + SHOP + p[19:])
    assert rewritten.run() == [
        "cart-0 -> hello to cart-1",
        "cart-1 -> challenge",
        f"caller refuses: the node at this address is of cluster {SHOP.hex()}",
    ]


def test_another_node_of_the_same_cluster_answers() -> None:
    other = replace(B, name="cart-2", number=3)
    assert Talk(acceptor=other).run() == [
        "cart-0 -> hello to cart-1",
        "acceptor refuses: this is node 'cart-2', not 'cart-1'",
    ]
    lenient = Talk(acceptor=other, on_hello=lambda p: p[: -len("cart-1")] + b"cart-2")
    assert lenient.run()[-1] == (
        "caller refuses: the node at this address is 'cart-2', not 'cart-1'"
    )


def test_a_caller_without_the_cluster_key() -> None:
    stranger = replace(A, keyring=Keyring(1, {1: b"x" * 32}))
    assert Talk(caller=stranger).run() == [
        "cart-0 -> hello to cart-1",
        "cart-1 -> challenge",
        "caller refuses: the node at this address doesn't know the cluster key",
    ]


def test_a_caller_without_the_cluster_key_that_goes_on_anyway() -> None:
    assert Talk(on_proof=lambda p: b"guess" * 6 + b"!!").run() == [
        "cart-0 -> hello to cart-1",
        "cart-1 -> challenge",
        "cart-0 -> proof",
        "acceptor refuses: the proof of the cluster key is wrong",
    ]


@pytest.mark.parametrize("proof", [b"", b"\x00", bytes(32), bytes(64)])
def test_proofs_of_any_length_are_refused(proof: bytes) -> None:
    assert Talk(on_proof=lambda p: proof).run()[-1] == (
        "acceptor refuses: the proof of the cluster key is wrong"
    )


def test_a_key_that_the_acceptor_does_not_have_yet() -> None:
    rotated = replace(A, keyring=Keyring(2, NEW))
    assert Talk(caller=rotated).run() == [
        "cart-0 -> hello to cart-1",
        "acceptor refuses: cluster key 2 is not known here",
    ]


def test_rotation_both_know_the_new_key_and_one_still_signs_with_the_old() -> None:
    signs_new, signs_old = replace(A, keyring=Keyring(2, NEW)), replace(B, keyring=Keyring(1, NEW))
    assert Talk(caller=signs_new, acceptor=signs_old).run() == GOOD


def test_a_replayed_proof_does_not_fit_the_next_connection() -> None:
    heard: list[bytes] = []

    def listen(payload: bytes) -> bytes:
        heard.append(payload)
        return payload

    assert Talk(on_proof=listen).run() == GOOD
    replay = Talk(nonce=b"c" * 16, on_proof=lambda p: heard[0])
    assert replay.run()[-1] == "acceptor refuses: the proof of the cluster key is wrong"


def test_a_challenge_cannot_be_reflected_as_a_proof() -> None:
    said: list[bytes] = []

    def listen(payload: bytes) -> bytes:
        said.append(payload)
        return payload

    mirrored = Talk(on_challenge=listen, on_proof=lambda p: said[0][-32:])
    assert mirrored.run()[-1] == "acceptor refuses: the proof of the cluster key is wrong"


def test_a_replaced_incarnation_is_refused_after_its_proof() -> None:
    """Only who has proven the key learns that, and only a proven hello replaces anything."""
    assert Talk(replaced={(1, A.incarnation)}).run() == [
        "cart-0 -> hello to cart-1",
        "cart-1 -> challenge",
        "cart-0 -> proof",
        f"acceptor refuses: incarnation {A.incarnation.hex()} of node 1 has been replaced",
    ]
    assert Talk(replaced={(1, b"another!"), (2, A.incarnation)}).run() == GOOD


def test_another_protocol_version_is_told_which_one_is_spoken() -> None:
    assert Talk(on_hello=lambda p: b"\x00\x09" + p[2:]).run()[-1] == (
        "acceptor refuses: protocol version 9 is not spoken here; this node speaks 1"
    )


@pytest.mark.parametrize("role", [0, 3, 255])
def test_an_unknown_role(role: int) -> None:
    said = Talk(on_hello=lambda p: p[:2] + bytes((role,)) + p[3:]).run()[-1]
    assert said == f"acceptor refuses: role {role} is neither node (1) nor client (2)"


@pytest.mark.parametrize(
    ("cluster_id", "target", "welcome"),
    [
        (CART, "cart-1", True),
        (CART, "", True),  # any node will do
        (bytes(16), "", True),  # it doesn't know the cluster yet
        (SHOP, "", False),
        (CART, "cart-2", False),
        (bytes(16), "cart-2", False),
    ],
)
def test_a_client_proves_nothing_but_may_not_be_lost(
    cluster_id: bytes, target: str, welcome: bool
) -> None:
    acceptor = Acceptor(B, NONCE_B, lambda n, name, i: False)
    hello = Hello(1, ROLE_CLIENT, cluster_id, 0, bytes(8), NONCE_A, "me", target, 99)
    if not welcome:
        with pytest.raises(CallerError):
            acceptor.hello(pack_hello(hello))
        return
    challenge = acceptor.hello(pack_hello(hello))
    assert CART in challenge
    assert challenge.endswith(b"cart-1")  # who answers, and no proof of the key for a stranger
    assert acceptor.caller.role == ROLE_CLIENT


@pytest.mark.parametrize("known", [bytes(16), CART])
def test_a_clients_own_side_learns_the_cluster_and_insists_on_it(known: bytes) -> None:
    caller = ClientCaller("me", "cart-1", NONCE_A, known)
    acceptor = Acceptor(B, NONCE_B, lambda n, name, i: False)
    caller.challenge(acceptor.hello(caller.hello()))
    assert (caller.cluster_id, caller.incarnation) == (CART, B.incarnation)
    assert acceptor.caller.name == "me"


@pytest.mark.parametrize(
    ("known", "acceptor", "why"),
    [
        (SHOP, B, f"of cluster {CART.hex()}"),
        (CART, replace(B, cluster_id=SHOP), f"of cluster {SHOP.hex()}"),
        (bytes(16), replace(B, name="cart-2"), "is 'cart-2', not 'cart-1'"),
    ],
)
def test_a_client_refuses_whom_it_did_not_mean(known: bytes, acceptor: Identity, why: str) -> None:
    """Even if the acceptor lets everybody in."""
    lenient = Acceptor(acceptor, NONCE_B, lambda n, name, i: False)
    said = lenient.hello(ClientCaller("me", "", NONCE_A).hello())
    with pytest.raises(CallerError, match=why):
        ClientCaller("me", "cart-1", NONCE_A, known).challenge(said)


@given(st.binary(max_size=120))
def test_random_challenges_never_pass_a_client(payload: bytes) -> None:
    with pytest.raises((CallerError, Corrupt)):
        ClientCaller("me", "cart-1", NONCE_A).challenge(payload)


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_hello_changed_on_its_way_never_gets_a_welcome(at: int, flip: int) -> None:
    def change(payload: bytes) -> bytes:
        changed = bytearray(payload)
        changed[at % len(changed)] ^= flip
        return bytes(changed)

    assert Talk(on_hello=change).run()[-1] != GOOD[-1]


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_challenge_changed_on_its_way_never_gets_a_welcome(at: int, flip: int) -> None:
    def change(payload: bytes) -> bytes:
        changed = bytearray(payload)
        changed[at % len(changed)] ^= flip
        return bytes(changed)

    assert Talk(on_challenge=change).run()[-1] != GOOD[-1]


@given(st.binary(max_size=120))
def test_random_challenges_are_refused_and_nothing_else(payload: bytes) -> None:
    with pytest.raises((CallerError, Corrupt)):
        Caller(A, "cart-1", NONCE_A).challenge(payload)


@given(st.binary(max_size=120))
def test_random_hellos_are_refused_and_nothing_else(payload: bytes) -> None:
    with pytest.raises((CallerError, Corrupt)):
        Acceptor(B, NONCE_B, lambda n, name, i: False).hello(payload)


@given(
    st.builds(
        Hello,
        st.integers(0, 2**16 - 1),
        st.integers(0, 255),
        st.binary(min_size=16, max_size=16),
        st.integers(0, 2**32 - 1),
        st.binary(min_size=8, max_size=8),
        st.binary(min_size=16, max_size=16),
        st.text(max_size=40),
        st.text(max_size=40),
        st.integers(0, 255),
    )
)
def test_hello_round_trip(hello: Hello) -> None:
    assert unpack_hello(pack_hello(hello)) == hello


def test_a_name_that_is_too_long_is_refused_before_it_is_sent() -> None:
    with pytest.raises(CallerError, match="longer than 255 bytes"):
        Caller(replace(A, name="n" * 256), "cart-1", NONCE_A)
