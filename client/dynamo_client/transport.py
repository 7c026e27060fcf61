"""The seam between what the client wants and how it travels.

Owns the calls as values and the `Transport` protocol: one try at one node.
Forbidden here: retries and the choice of node (`client`), bytes on a wire
(`http_transport`, `native_transport`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dynamo_client.items import OCTET_STREAM, DeleteResult, Item, PutResult


@dataclass(frozen=True, slots=True)
class GetCall:
    """Read `key`; `r` replicas have to answer (None: the cluster's default).

    `context` is a floor: an answer that doesn't cover it is refused (NotYet).
    """

    key: bytes
    r: int | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True)
class PutCall:
    """Write `value`. A call that is repeated keeps its `write_id` (32 hex): it shows once."""

    key: bytes
    value: bytes
    write_id: str
    context: str | None = None
    content_type: str = OCTET_STREAM
    w: int | None = None


@dataclass(frozen=True, slots=True)
class DeleteCall:
    """Delete what `context` covers; without one, what a read with `r` replicas finds."""

    key: bytes
    write_id: str
    context: str | None = None
    r: int | None = None
    w: int | None = None


class Transport(Protocol):
    """One try of a call at one node, within `timeout_ms`.

    Raises the exceptions of `errors`: Unreachable if nothing answered, with
    `maybe_done` telling whether the request may have reached the node.
    `on_new_ring` is called when a node has shown that the members may have changed.
    """

    on_new_ring: Callable[[], None]

    async def get(self, node: str, call: GetCall, timeout_ms: int) -> Item: ...

    async def put(self, node: str, call: PutCall, timeout_ms: int) -> PutResult: ...

    async def delete(self, node: str, call: DeleteCall, timeout_ms: int) -> DeleteResult: ...

    async def cluster(self, node: str, timeout_ms: int) -> dict[str, Any]:
        """The node's view of the cluster, as `GET /cluster` gives it."""
        ...

    async def ready(self, node: str, timeout_ms: int) -> bool:
        """Whether the node answers and may serve."""
        ...

    def owners(self, key: bytes, *, reads: bool) -> Sequence[str]:
        """Nodes that can do it for `key` in a single hop, best first; () if not known (P§6.4)."""
        ...

    async def close(self) -> None: ...
