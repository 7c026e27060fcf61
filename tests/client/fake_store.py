"""The fake's data: keys with siblings in memory, by the contract's words and nothing else.

One store stands for a whole cluster. A dot is a running number; a context is
the list of dots that were shown, bound to its key and signed. Pure: no I/O.
"""

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field

VALUE_BYTES_MAX = 1024 * 1024
SIBLINGS_MAX = 100
_SECRET = b"only of this fake"


class BadContextError(Exception):
    """The token isn't one of ours for this key."""


@dataclass
class Version:
    dot: int
    write_id: str
    content_type: str
    value: bytes | None  # None is a tombstone


@dataclass
class Object:
    seen: set[int] = field(default_factory=set)
    versions: dict[int, Version] = field(default_factory=dict)

    def live(self) -> list[Version]:
        """What a reader is shown: no tombstones, each write once."""
        by_write = {v.write_id: v for v in self.versions.values() if v.value is not None}
        return list(by_write.values())


class Store:
    def __init__(self) -> None:
        self.objects: dict[bytes, Object] = {}
        self.context_padding = ""  # makes contexts long, as many actors would
        self._dots = 0

    def read(self, key: bytes) -> tuple[list[Version], str | None]:
        """Live versions and the context that covers what was shown."""
        found = self.objects.get(key)
        if found is None:
            return [], None
        return found.live(), self.token(key, found.seen)

    def write(
        self, key: bytes, value: bytes | None, covered: set[int], write_id: str, content_type: str
    ) -> str:
        found = self.objects.setdefault(key, Object())
        for dot in covered:
            found.versions.pop(dot, None)
        self._dots += 1
        found.versions[self._dots] = Version(self._dots, write_id, content_type, value)
        found.seen |= covered | {self._dots}
        return self.token(key, covered | {self._dots})

    def is_full(self, key: bytes, covered: set[int]) -> bool:
        found = self.objects.get(key)
        left = [v for v in found.live() if v.dot not in covered] if found else []
        return len(left) >= SIBLINGS_MAX

    def covers(self, key: bytes, floor: set[int]) -> bool:
        found = self.objects.get(key)
        return floor <= (found.seen if found else set())

    def token(self, key: bytes, dots: set[int]) -> str:
        body = json.dumps({"dots": sorted(dots), "padding": self.context_padding}).encode()
        return urlsafe_b64encode(_mac(key, body) + body).rstrip(b"=").decode()

    def open(self, key: bytes, token: str | None) -> set[int]:
        if token is None:
            return set()
        try:
            raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
            if not hmac.compare_digest(raw[:16], _mac(key, raw[16:])):
                raise ValueError("forged")
            return set(json.loads(raw[16:])["dots"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadContextError(str(error)) from error


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.new(_SECRET, len(key).to_bytes(2, "big") + key + body, hashlib.sha256).digest()[:16]
