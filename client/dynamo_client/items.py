"""What a key holds and what a write answered, as plain values.

Owns `Item`, `Sibling`, `Acks`, `PutResult`, `DeleteResult` and the checks of
what a caller hands in (key, value). Forbidden here: I/O.
"""

import re
from dataclasses import dataclass, field

from dynamo_client.errors import BadRequest, NotFound, Siblings, TooLarge

OCTET_STREAM = "application/octet-stream"
KEY_BYTES_MAX = 1024

_ACK = re.compile(r"([a-z-]+)=(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Sibling:
    """One of a key's concurrent values.

    `dot` (the version's own name) and `written_at` (ISO 8601, the writer's
    wall clock, for people only) are None where the answer didn't carry them.
    """

    value: bytes
    content_type: str = OCTET_STREAM
    dot: str | None = None
    written_at: str | None = None


@dataclass(frozen=True, slots=True)
class Acks:
    """Who answered: owners of the key, and stand-ins for owners that were away (P§4.6)."""

    primary: int = 0
    standin: int = 0

    @classmethod
    def parse(cls, header: str | None) -> "Acks":
        """From `X-Dynamo-Acks: primary=2, standin=0`; what is missing counts 0."""
        found = {name: int(count) for name, count in _ACK.findall(header or "")}
        return cls(found.get("primary", 0), found.get("standin", 0))


@dataclass(frozen=True, slots=True)
class Item:
    """The answer to a get: all causally unrelated values and one opaque context (P§4.1).

    `context` covers exactly what is shown here: give it to the put or delete
    that replaces it. An item without siblings is an absent key; it has a
    context too if the key was deleted.
    """

    key: bytes
    siblings: tuple[Sibling, ...] = ()
    context: str | None = None
    acks: Acks = field(default_factory=Acks)

    @property
    def found(self) -> bool:
        """Whether the key holds any value."""
        return bool(self.siblings)

    @property
    def values(self) -> list[bytes]:
        """Every value; empty for an absent key."""
        return [sibling.value for sibling in self.siblings]

    @property
    def value(self) -> bytes:
        """The value, if there is exactly one; else NotFound or Siblings."""
        if len(self.siblings) == 1:
            return self.siblings[0].value
        if not self.siblings:
            raise NotFound(f"the key {show_key(self.key)} holds no value", self)
        raise Siblings(
            f"the key {show_key(self.key)} holds {len(self.siblings)} concurrent values: "
            "merge .values and put the result with .context",
            self,
        )


@dataclass(frozen=True, slots=True)
class PutResult:
    """`context` is the one that was sent plus this write, for the session's next write."""

    context: str | None
    acks: Acks


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """`found` is False if there was nothing to delete (only without a context)."""

    found: bool
    context: str | None
    acks: Acks


def key_bytes(key: bytes | str) -> bytes:
    """The key as 1..1024 bytes; a str is taken as UTF-8. BadRequest or TooLarge otherwise."""
    if isinstance(key, str):
        try:
            key = key.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(
                f"the key {key!r} can't be written as UTF-8 ({error.reason}); give it as bytes",
                kind="bad-key",
            ) from error
    if not isinstance(key, (bytes, bytearray, memoryview)):
        raise TypeError(f"a key is bytes or str, not {type(key).__name__}")
    raw = bytes(key)
    if not raw:
        raise BadRequest("the key is empty; a key is 1..1024 bytes", kind="bad-key")
    if len(raw) > KEY_BYTES_MAX:
        raise TooLarge(f"the key has {len(raw)} bytes; a key is 1..1024 bytes", kind="bad-key")
    return raw


def value_bytes(value: bytes) -> bytes:
    """The value as bytes; text is refused, because its encoding is the caller's to choose."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(
        f"a value is bytes, not {type(value).__name__}; "
        "encode it first, for example with .encode() or json.dumps(...).encode()"
    )


def show_key(key: bytes) -> str:
    """The key for a message: as text where it is text."""
    try:
        return repr(key.decode())
    except UnicodeDecodeError:
        return repr(key)
