"""What can go wrong between a client and the store, as one small exception tree.

Owns the translation of an answer that says no (problem+json, RFC 9457) into an
exception that carries its fields. Forbidden here: sending anything; the doors
(`http_transport`) raise these with the foreign cause chained.

    DynamoClientError
      BadRequest          400 key, quorum, context or header is wrong
      Denied              401, 403
      TooManySiblings     409 read first, then write with the read's context
      TooLarge            413 key, value or object
      Unavailable         503 too few replicas answered: needed, got
        NotYet            503 the floor (read your writes) isn't reached yet
        Overloaded        503 come back after retry_after_seconds
      Unreachable         no node answered at all
      UnexpectedAnswer    something that isn't a Dynamo node answered, or a bug
    NoSingleValue         `item.value` was asked where there isn't exactly one
      NotFound            there is none
      Siblings            there are several; they are in `.item`
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynamo_core.errors import DynamoError

if TYPE_CHECKING:
    from dynamo_client.items import Item


class DynamoClientError(DynamoError):
    """A request that didn't succeed.

    `status` is the HTTP status or None when nothing answered, `kind` the last
    part of the problem's type ("not-yet", "overloaded"), `title` and `detail`
    its texts, `fields` the whole problem document, `node` the URL that said it.
    `maybe_done` says that a write may have been carried out nevertheless.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        kind: str = "",
        title: str = "",
        fields: Mapping[str, Any] | None = None,
        node: str = "",
        maybe_done: bool = False,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.kind = kind
        self.title = title
        self.fields = dict(fields or {})
        self.node = node
        self.maybe_done = maybe_done


class BadRequest(DynamoClientError):
    """The key, the quorum, the context or the value's form is wrong; nothing was written."""


class Denied(DynamoClientError):
    """The node doesn't know this client (401) or doesn't allow it (403)."""


class TooManySiblings(DynamoClientError):
    """The key holds as many siblings as allowed: read, merge, write with the read's context."""


class TooLarge(DynamoClientError):
    """The key, the value or the object with all its siblings is over the cluster's limit."""


class Unavailable(DynamoClientError):
    """Too few replicas answered in time; a write may or may not exist afterwards."""

    @property
    def needed(self) -> int | None:
        """Replicas that had to answer, if the node said so."""
        return _integer(self.fields.get("needed"))

    @property
    def got(self) -> int | None:
        """Replicas that did answer, if the node said so."""
        return _integer(self.fields.get("got"))


class NotYet(Unavailable):
    """No answer that covers the context given as floor could be had in time."""


class Overloaded(Unavailable):
    """The node has more to do than it can; other nodes may have room."""

    @property
    def retry_after_seconds(self) -> int | None:
        """The node's own advice."""
        return _integer(self.fields.get("retry_after"))


class Unreachable(DynamoClientError):
    """No node answered; `detail` names each one tried and why."""


class UnexpectedAnswer(DynamoClientError):
    """The answer isn't one of the contract's: another server, another version, or a bug."""


class NoSingleValue(DynamoError):
    """`item.value` needs exactly one value."""

    def __init__(self, detail: str, item: "Item") -> None:
        super().__init__(detail)
        self.item = item


class NotFound(NoSingleValue):
    """The key holds no value."""


class Siblings(NoSingleValue):
    """The key holds several concurrent values: merge `.item.values`, write with its context."""


_BY_STATUS: dict[int, type[DynamoClientError]] = {
    400: BadRequest,
    401: Denied,
    403: Denied,
    404: BadRequest,  # only a path that isn't /kv/KEY ends here: an absent key is an answer
    409: TooManySiblings,
    411: BadRequest,
    413: TooLarge,
    414: TooLarge,
    431: TooLarge,
    503: Unavailable,
}
_UNAVAILABLE_KINDS: dict[str, type[Unavailable]] = {"not-yet": NotYet, "overloaded": Overloaded}


def from_problem(
    status: int, problem: Mapping[str, Any], *, node: str, retry_after: str | None = None
) -> DynamoClientError:
    """The exception for a problem document; a status outside the contract is UnexpectedAnswer."""
    fields = dict(problem)
    if retry_after is not None and retry_after.isdecimal():
        fields.setdefault("retry_after", int(retry_after))
    kind = re.split(r"[/:#]", str(problem.get("type", "")))[-1]
    title = str(problem.get("title", ""))
    detail = str(problem.get("detail") or title or f"HTTP status {status}")
    made = _BY_STATUS.get(status, UnexpectedAnswer)
    if status == 503:
        made = _UNAVAILABLE_KINDS.get(kind, Unavailable)
    return made(
        detail,
        status=status,
        kind=kind,
        title=title,
        fields=fields,
        node=node,
        maybe_done=status >= 500,
    )


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
