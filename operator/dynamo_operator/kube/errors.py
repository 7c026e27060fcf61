"""What can go wrong between the operator and the API server, by what to do about it.

Owns these exceptions; `answers` is where an answer becomes one of them. Each
message is for people: what was asked for, of which object, and why not.
"""

from __future__ import annotations

from dynamo_core.errors import DynamoError


class KubeError(DynamoError):
    """The API server did not do what it was asked to."""


class NotFound(KubeError):
    """There is no such object. With `kind_unknown` the server doesn't serve this kind at all."""

    def __init__(self, detail: str, *, kind_unknown: bool = False) -> None:
        super().__init__(detail)
        self.kind_unknown = kind_unknown


class Conflict(KubeError):
    """The object isn't the one that was looked at any more; nothing was written. Look again."""


class AlreadyExists(Conflict):
    """An object of this name exists already; nothing was written."""


class Forbidden(KubeError):
    """This operator may not do that, or isn't known to the API server: its role is wrong."""


class NamespaceEnding(Forbidden):
    """Nothing new is taken in this namespace: it is being deleted, with all that is in it."""


class Invalid(KubeError):
    """The API server rejects the object. `causes`: ("path.of.field", "what is wrong") each."""

    def __init__(self, detail: str, causes: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.causes = causes


class TooManyRequests(KubeError):
    """An eviction that a PodDisruptionBudget refuses for now; `reason` is the server's."""

    def __init__(self, detail: str, reason: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Unreachable(KubeError):
    """No answer in time, or the API server is in trouble. A write may or may not have happened."""


class NotLeading(KubeError):
    """This process doesn't hold the lease any more; nothing was sent."""
