"""Handshake: both ends of a new native connection learn whom they talk to.

Owns the order of HELLO, CHALLENGE, PROOF, WELCOME and what is checked when.
The caller names the cluster, itself, its incarnation and the node it means to
reach, so that a pod's address that now belongs to another cluster's pod ends
in a refusal and not in a write. Role node proves the cluster key, in both
directions; role client proves nothing and may only send what clients may.

Forbidden here: sockets and randomness (nonces are passed in). Messages are
payload bytes; the shell frames them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.contexts import Keyring
from dynamo_core.errors import CallerError, Corrupt
from dynamo_core.wire import PROTOCOL_VERSION

_MAC_BYTES: Final = 32
ROLE_NODE: Final = 1
ROLE_CLIENT: Final = 2
_UNKNOWN_CLUSTER: Final = bytes(16)

_HELLO: Final = Struct(">HB16sI8s16sBBB")
_CHALLENGE: Final = Struct(">H16s8sB")


class ReplacedError(CallerError):
    """A caller's incarnation is known to have a successor."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who calls, and whom it means to reach (`target` may be empty for clients)."""

    version: int
    role: int
    cluster_id: bytes
    number: int
    incarnation: bytes
    nonce: bytes
    name: str
    target: str
    key_id: int


def pack_hello(hello: Hello) -> bytes:
    name, target = hello.name.encode(), hello.target.encode()
    if len(name) > 255 or len(target) > 255:
        raise CallerError("a node's name is longer than 255 bytes")
    return (
        _HELLO.pack(
            hello.version,
            hello.role,
            hello.cluster_id,
            hello.number,
            hello.incarnation,
            hello.nonce,
            len(name),
            len(target),
            hello.key_id,
        )
        + name
        + target
    )


def unpack_hello(payload: bytes) -> Hello:
    try:
        version, role, cluster_id, number, incarnation, nonce, name_n, target_n, key_id = (
            _HELLO.unpack_from(payload)
        )
        at = _HELLO.size
        if len(payload) != at + name_n + target_n:
            raise Corrupt("a hello's names don't fill its frame")
        name = payload[at : at + name_n].decode()
        target = payload[at + name_n :].decode()
    except (struct_error, UnicodeDecodeError) as error:
        raise Corrupt("a hello is malformed") from error
    return Hello(version, role, cluster_id, number, incarnation, nonce, name, target, key_id)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node knows of itself for handshakes; `number` is 0 before it has a ring."""

    cluster_id: bytes
    name: str
    number: int
    incarnation: bytes
    keyring: Keyring


class Acceptor:
    """The accepting end: hello() answers the first frame, proof() the second."""

    def __init__(
        self, me: Identity, nonce: bytes, is_replaced: Callable[[int, str, bytes], bool]
    ) -> None:
        """`is_replaced` says of number, name and incarnation whether a successor is known."""
        self._me = me
        self._nonce = nonce
        self._is_replaced = is_replaced
        self._hello: Hello | None = None
        self._transcript = b""

    def hello(self, payload: bytes) -> bytes:
        """The CHALLENGE for a HELLO; raises CallerError with the reason to refuse."""
        hello = unpack_hello(payload)
        me = self._me
        if hello.version != PROTOCOL_VERSION:
            raise CallerError(
                f"protocol version {hello.version} is not spoken here; "
                f"this node speaks {PROTOCOL_VERSION}"
            )
        if hello.role not in (ROLE_NODE, ROLE_CLIENT):
            raise CallerError(f"role {hello.role} is neither node (1) nor client (2)")
        # A client that doesn't know the cluster's id yet sends zeros.
        vague = hello.role == ROLE_CLIENT and hello.cluster_id == _UNKNOWN_CLUSTER
        if hello.cluster_id != me.cluster_id and not vague:
            raise CallerError(
                f"this node is of cluster {me.cluster_id.hex()}, not of {hello.cluster_id.hex()}"
            )
        if hello.target != me.name and (hello.role == ROLE_NODE or hello.target):
            raise CallerError(f"this is node {me.name!r}, not {hello.target!r}")
        if hello.role == ROLE_NODE and hello.key_id not in me.keyring.secrets:
            raise CallerError(f"cluster key {hello.key_id} is not known here")
        self._hello = hello
        self._transcript = payload + self._nonce
        head = _CHALLENGE.pack(PROTOCOL_VERSION, self._nonce, me.incarnation, len(me.name.encode()))
        body = head + me.cluster_id + me.name.encode()
        if hello.role == ROLE_CLIENT:
            return body
        secret = me.keyring.secrets[hello.key_id]
        return body + _mac(secret, b"accept", self._transcript + body)

    @property
    def caller(self) -> Hello:
        assert self._hello is not None
        return self._hello

    def proof(self, payload: bytes) -> Hello:
        """Check a PROOF and say who calls; raises CallerError with the reason to refuse."""
        hello = self.caller
        expected = _mac(self._me.keyring.secrets[hello.key_id], b"call", self._transcript)
        if not compare_digest(expected, payload):
            raise CallerError("the proof of the cluster key is wrong")
        if self._is_replaced(hello.number, hello.name, hello.incarnation):
            raise ReplacedError(
                f"incarnation {hello.incarnation.hex()} of node {hello.number} has been replaced"
            )
        return hello


class Caller:
    """The calling end: hello() opens, challenge() answers the acceptor's CHALLENGE."""

    def __init__(self, me: Identity, target: str, nonce: bytes, role: int = ROLE_NODE) -> None:
        self._me = me
        self._target = target
        self._role = role
        self._nonce = nonce
        self._hello = pack_hello(
            Hello(
                PROTOCOL_VERSION,
                role,
                me.cluster_id,
                me.number,
                me.incarnation,
                nonce,
                me.name,
                target,
                me.keyring.signing_id,
            )
        )
        self.incarnation = b""

    def hello(self) -> bytes:
        """The HELLO to send first."""
        return self._hello

    def challenge(self, payload: bytes) -> bytes:
        """The PROOF for a CHALLENGE; raises CallerError if the acceptor isn't who it should be."""
        said = _unpack_challenge(payload)
        _check_acceptor(said, self._me.cluster_id, self._target)
        transcript = self._hello + said.nonce
        secret = self._me.keyring.signing
        expected = _mac(secret, b"accept", transcript + said.body)
        if not compare_digest(said.proof, expected):
            raise CallerError("the node at this address doesn't know the cluster key")
        self.incarnation = said.incarnation
        return _mac(secret, b"call", transcript)


class ClientCaller:
    """A client's calling end: it proves nothing and is sent no proof, but checks who answers.

    `cluster_id` zero means that the client doesn't know the cluster yet; it is
    the acceptor's after challenge(), and the next connection insists on it.
    """

    def __init__(
        self, name: str, target: str, nonce: bytes, cluster_id: bytes = _UNKNOWN_CLUSTER
    ) -> None:
        self.cluster_id = cluster_id
        self.incarnation = b""
        self._target = target
        self._hello = pack_hello(
            Hello(PROTOCOL_VERSION, ROLE_CLIENT, cluster_id, 0, bytes(8), nonce, name, target, 0)
        )

    def hello(self) -> bytes:
        """The HELLO to send first; WELCOME follows the CHALLENGE without another word."""
        return self._hello

    def challenge(self, payload: bytes) -> None:
        """Check a CHALLENGE; raises CallerError if the acceptor isn't who it should be."""
        said = _unpack_challenge(payload)
        known = self.cluster_id != _UNKNOWN_CLUSTER
        _check_acceptor(said, self.cluster_id if known else said.cluster_id, self._target)
        self.cluster_id = said.cluster_id
        self.incarnation = said.incarnation


class _Challenge(NamedTuple):
    """A CHALLENGE as it came: `body` is what the proof, if there is one, was made over."""

    version: int
    nonce: bytes
    incarnation: bytes
    cluster_id: bytes
    name: str
    body: bytes
    proof: bytes


def _unpack_challenge(payload: bytes) -> _Challenge:
    try:
        version, nonce, incarnation, name_n = _CHALLENGE.unpack_from(payload)
    except struct_error as error:
        raise Corrupt("a challenge is malformed") from error
    at = _CHALLENGE.size
    end = at + 16 + name_n
    if len(payload) < end:
        raise Corrupt("a challenge ends before the node's name")
    name = payload[at + 16 : end].decode(errors="replace")
    return _Challenge(
        version, nonce, incarnation, payload[at : at + 16], name, payload[:end], payload[end:]
    )


def _check_acceptor(said: _Challenge, cluster_id: bytes, target: str) -> None:
    if said.version != PROTOCOL_VERSION or said.cluster_id != cluster_id:
        raise CallerError(f"the node at this address is of cluster {said.cluster_id.hex()}")
    if said.name != target:
        raise CallerError(f"the node at this address is {said.name!r}, not {target!r}")


def _mac(secret: bytes, role: bytes, data: bytes) -> bytes:
    return blake2b(data, key=secret, digest_size=_MAC_BYTES, person=b"dyn-hs-" + role).digest()
