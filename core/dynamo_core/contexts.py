"""Context tokens: what a client carries from an answer to its next write (P§4.1).

Owns the token's form and its authentication. A context is a clock, the reap
round it is of and the node that answered fastest; it is bound to the key
and to the cluster by a keyed hash, so that a forged, damaged or foreign token
is told apart before anything is written.

Token: base64url without padding of u8 version | u8 key id | u64 round |
u32 fastest node | clock | 16 bytes keyed BLAKE2b over all that and the key.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.errors import CallerError, Corrupt
from dynamo_core.versions import EMPTY, Clock, clock_from_bytes, clock_length

_VERSION: Final = 1
_HEADER: Final = Struct(">BBQI")
_MAC_BYTES: Final = 16
_PERSON: Final = b"dynamo-context"
SECRET_BYTES: Final = 32


class Context(NamedTuple):
    """A verified context: `fastest` is a node number, 0 when none is known.

    A round committed beyond `reap_round` says that owners have got all that `clock` claims.
    """

    clock: Clock
    reap_round: int = 0
    fastest: int = 0


NO_CONTEXT: Final = Context(EMPTY)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The cluster's keys by id: the first one signs, every one verifies (rotation)."""

    signing_id: int
    secrets: Mapping[int, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if self.signing_id not in self.secrets:
            raise CallerError(f"the signing key {self.signing_id} is not among the keys")
        for key_id, secret in self.secrets.items():
            if not 0 <= key_id <= 255:
                raise CallerError(f"key id {key_id} is outside 0..255")
            if len(secret) != SECRET_BYTES:
                raise CallerError(
                    f"key {key_id} has {len(secret)} bytes, {SECRET_BYTES} are needed"
                )

    @property
    def signing(self) -> bytes:
        return self.secrets[self.signing_id]

    def seal(self, key: bytes, clock_bytes: bytes, reap_round: int = 0, fastest: int = 0) -> str:
        """The token for an encoded clock of `key`."""
        body = _HEADER.pack(_VERSION, self.signing_id, reap_round, fastest) + clock_bytes
        return urlsafe_b64encode(body + _mac(self.signing, body, key)).rstrip(b"=").decode()

    def open(self, key: bytes, token: str) -> Context:
        """Verify and decode a token for `key`.

        Raises CallerError when it is malformed, forged, or of another key or
        cluster; which of these is not told, because a forger would like to know.
        """
        try:
            raw = token.encode("ascii")
            padded = raw + b"=" * (-len(raw) % 4)
            data = urlsafe_b64decode(padded)
            # The lenient decoder skips foreign characters; only the exact form is ours.
            if urlsafe_b64encode(data).rstrip(b"=") != raw:
                raise CallerError(_BAD)
            body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
            version, key_id, reap_round, fastest = _HEADER.unpack_from(body)
            secret = self.secrets.get(key_id)
            if version != _VERSION or secret is None:
                raise CallerError(_BAD)
            if not compare_digest(mac, _mac(secret, body, key)):
                raise CallerError(_BAD)
            if _HEADER.size + clock_length(body, _HEADER.size) != len(body):
                raise CallerError(_BAD)
            return Context(clock_from_bytes(body, _HEADER.size), reap_round, fastest)
        except (UnicodeEncodeError, Base64Error, ValueError, struct_error, Corrupt) as error:
            raise CallerError(_BAD) from error


def peek(token: str) -> Clock:
    """The clock that a token claims, unverified: to show and to check, never to decide by.

    Raises CallerError when it has not the form of a token.
    """
    try:
        raw = token.encode("ascii")
        body = urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))[:-_MAC_BYTES]
        if _HEADER.size + clock_length(body, _HEADER.size) != len(body):
            raise CallerError(_BAD)
        return clock_from_bytes(body, _HEADER.size)
    except (UnicodeEncodeError, Base64Error, ValueError, Corrupt) as error:
        raise CallerError(_BAD) from error


_BAD: Final = (
    "the context is not one that this cluster issued for this key; "
    "send back exactly what a GET, PUT or DELETE of the same key answered, or none"
)


def _mac(secret: bytes, body: bytes, key: bytes) -> bytes:
    # The body's length goes in, so that bytes can't move between body and key.
    mac = blake2b(len(body).to_bytes(4, "big"), key=secret, digest_size=_MAC_BYTES, person=_PERSON)
    mac.update(body)
    mac.update(key)
    return mac.digest()
