"""The client: get, put, delete and update against any node, with failover.

Owns deadlines, the tries at other nodes after a failure, and write ids.
Forbidden here: bytes on a wire (the transports), what is known of nodes (`routing`) and
how that is kept fresh (`discovery`).
"""

import asyncio
import inspect
import random
import secrets
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar, get_args

from dynamo_client import spans
from dynamo_client.discovery import Discovery
from dynamo_client.errors import (
    DynamoClientError,
    TooManySiblings,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from dynamo_client.items import (
    OCTET_STREAM,
    DeleteResult,
    Item,
    PutResult,
    key_bytes,
    value_bytes,
)
from dynamo_client.routing import Nodes
from dynamo_client.transport import DeleteCall, GetCall, PutCall, Transport

TIMEOUT_MS: Final = 5_000
_TRIES_MAX: Final = 4
_UPDATE_PAUSE_SECONDS_MAX: Final = 1.0

Protocol: TypeAlias = Literal["auto", "native", "http"]
T = TypeVar("T")
Merge = Callable[[list[bytes]], bytes | Awaitable[bytes]]


class DynamoClient:
    """An asynchronous client of one cluster; use it as `async with DynamoClient(url) as kv`.

    `urls`: any node's URL, or several. `timeout_ms` bounds a whole call, with
    all its tries at other nodes. `r` and `w` are defaults for every call (None:
    the cluster's own). With `discover=False` only the given nodes are used.
    `protocol`: "auto" goes straight to a key's replicas over the native protocol
    (P§6.4) wherever that can be reached and takes HTTP elsewhere; "native" and
    "http" insist. What is not discovered, and https, is HTTP's alone.
    Every method raises the exceptions of `dynamo_client.errors`.
    """

    def __init__(
        self,
        urls: str | Iterable[str],
        *,
        timeout_ms: int = TIMEOUT_MS,
        r: int | None = None,
        w: int | None = None,
        discover: bool = True,
        protocol: Protocol = "auto",
        transport: Callable[[], Transport] | None = None,
    ) -> None:
        if timeout_ms < 1:
            raise ValueError(f"timeout_ms is {timeout_ms}; it has to be at least 1")
        if protocol not in get_args(Protocol):
            raise ValueError(f"protocol is {protocol!r}; there are auto, native and http")
        if protocol == "native" and not discover:
            raise ValueError('protocol="native" needs discover=True: /cluster tells its addresses')
        self._protocol = protocol if discover else "http"
        self._nodes = Nodes([urls] if isinstance(urls, str) else urls)
        self._timeout_ms = timeout_ms
        self._r = r
        self._w = w
        self._discover = discover
        self._make_transport = transport
        self._transport: Transport | None = None
        self._discovery: Discovery | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._started()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop watching the cluster and close the connections."""
        self._closed = True
        discovery, self._discovery = self._discovery, None
        if discovery is not None:
            await discovery.stop()
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    async def get(
        self,
        key: bytes | str,
        *,
        r: int | None = None,
        timeout_ms: int | None = None,
        context: str | None = None,
    ) -> Item:
        """All values of `key` and their context (P§4.1); an absent key is an item without values.

        `context`: a floor, the answer covers it or NotYet is raised (read your writes).
        """
        call = GetCall(key_bytes(key), self._r if r is None else r, context)
        return await self._carry_out(
            "get", lambda by, node, ms: by.get(node, call, ms), timeout_ms, call.key, reads=True
        )

    async def put(
        self,
        key: bytes | str,
        value: bytes,
        *,
        context: str | None = None,
        content_type: str = OCTET_STREAM,
        w: int | None = None,
        timeout_ms: int | None = None,
        write_id: str | None = None,
    ) -> PutResult:
        """Write `value` in the place of everything that `context` covers.

        Without a context it becomes a sibling of what exists. After Unavailable
        or Unreachable with `maybe_done` the write may exist: repeat it with the
        same `write_id` (32 hex digits) and it shows once.
        """
        call = PutCall(
            key_bytes(key),
            value_bytes(value),
            write_id or new_write_id(),
            context,
            content_type,
            self._w if w is None else w,
        )
        return await self._carry_out(
            "put", lambda by, node, ms: by.put(node, call, ms), timeout_ms, call.key
        )

    async def delete(
        self,
        key: bytes | str,
        *,
        context: str | None = None,
        r: int | None = None,
        w: int | None = None,
        timeout_ms: int | None = None,
        write_id: str | None = None,
    ) -> DeleteResult:
        """Delete what `context` covers; without one, what the node reads with `r` replicas."""
        call = DeleteCall(
            key_bytes(key),
            write_id or new_write_id(),
            context,
            self._r if r is None else r,
            self._w if w is None else w,
        )
        return await self._carry_out(
            "delete", lambda by, node, ms: by.delete(node, call, ms), timeout_ms, call.key
        )

    async def update(
        self,
        key: bytes | str,
        merge: Merge,
        *,
        attempts: int = 10,
        context: str | None = None,
        content_type: str = OCTET_STREAM,
        r: int | None = None,
        w: int | None = None,
        timeout_ms: int | None = None,
    ) -> PutResult:
        """Read, merge the siblings, write with the read's context; try again what may succeed.

        `merge` gets the list of values (empty for an absent key) and returns the
        new one; it may be a coroutine function and is called again after a fresh
        read. A write whose outcome is unknown is repeated as it is, with its
        write id, so that `merge` is never applied to its own result by accident.
        `attempts` bounds reads and writes together. `context`: floor of the read.
        """
        if attempts < 1:
            raise ValueError(f"attempts is {attempts}; it has to be at least 1")
        pending: tuple[bytes, str | None, str] | None = None
        for attempt in range(1, attempts + 1):
            try:
                if pending is None:
                    item = await self.get(key, r=r, timeout_ms=timeout_ms, context=context)
                    merged = merge(item.values)
                    value = await merged if inspect.isawaitable(merged) else merged
                    pending = (value_bytes(value), item.context, new_write_id())
                value, seen, write_id = pending
                return await self.put(
                    key,
                    value,
                    context=seen,
                    content_type=content_type,
                    w=w,
                    timeout_ms=timeout_ms,
                    write_id=write_id,
                )
            except TooManySiblings:
                pending = None
                if attempt == attempts:
                    raise
            except (Unavailable, Unreachable):
                if attempt == attempts:
                    raise
            await asyncio.sleep(_pause_seconds(attempt))
        raise AssertionError("the last attempt returns or raises")

    async def cluster(self, *, timeout_ms: int | None = None) -> dict[str, Any]:
        """The cluster as one node sees it: `name`, `ring`, `nodes`, `transfers`."""
        view = await self._carry_out(
            "cluster", lambda by, node, ms: by.cluster(node, ms), timeout_ms
        )
        if self._discovery is not None:
            self._discovery.learn(view)
        return view

    @property
    def nodes(self) -> tuple[str, ...]:
        """The URLs of the nodes that take this client's requests now."""
        return self._nodes.proven

    async def _carry_out(
        self,
        operation: str,
        one_try: Callable[[Transport, str, int], Awaitable[T]],
        timeout_ms: int | None,
        key: bytes | None = None,
        *,
        reads: bool = False,
    ) -> T:
        """`_try_nodes`, under a span where the application traces."""
        if not spans.traced():
            return await self._try_nodes(spans.UNTRACED, one_try, timeout_ms, key, reads)
        with spans.call(operation) as call:
            return await self._try_nodes(call, one_try, timeout_ms, key, reads)

    async def _try_nodes(
        self,
        call: spans.Call,
        one_try: Callable[[Transport, str, int], Awaitable[T]],
        timeout_ms: int | None,
        key: bytes | None,
        reads: bool,
    ) -> T:
        """Try nodes in turn until one does it, the deadline is near, or all were tried.

        With a `key` its owners come first, where the transport knows them.
        """
        transport = self._transport or await self._started()
        nodes = self._nodes
        now = asyncio.get_running_loop().time
        deadline = now() + (timeout_ms or self._timeout_ms) / 1000
        failures: list[DynamoClientError] = []
        tried: set[str] = set()
        reached = 0
        owners = () if key is None else transport.owners(key, reads=reads)
        while reached < _TRIES_MAX:
            node = nodes.next_try(owners, tried)
            remaining_ms = int((deadline - now()) * 1000)
            if node is None or (tried and remaining_ms < 1):
                break
            tried.add(node)
            # A node that hangs must leave time for another one.
            is_last = reached + 1 >= _TRIES_MAX or len(tried) >= nodes.count
            try:
                done = await one_try(
                    transport, node, max(1, remaining_ms if is_last else remaining_ms // 2)
                )
            except (Unreachable, Unavailable, UnexpectedAnswer) as error:
                failures.append(error)
                # Most nodes may have left since: whoever isn't there costs nobody a try.
                reached += error.kind != "no-connection"
                if isinstance(error, Unreachable):
                    nodes.failed(node, now())
                    if self._discovery is not None:
                        self._discovery.suspect()
                elif isinstance(error, UnexpectedAnswer) and (error.status or 0) < 500:
                    raise
            except DynamoClientError as error:
                error.maybe_done |= any(failure.maybe_done for failure in failures)
                raise
            else:
                nodes.succeeded(node)
                call.answered(node, len(tried), done)
                return done
        raise _worst(failures)

    async def _started(self) -> Transport:
        if self._transport is not None:
            return self._transport
        if self._closed:
            raise RuntimeError("this DynamoClient is closed")
        if self._make_transport is not None:
            self._transport = self._make_transport()
        else:
            self._transport = self._default_transport()
        transport = self._transport
        if self._discover:
            self._discovery = Discovery(self._nodes, transport)
            await self._discovery.start()
        return transport

    def _default_transport(self) -> Transport:
        from dynamo_client.http_transport import HttpTransport

        http = HttpTransport()
        if self._protocol == "http":
            return http
        from dynamo_client.native_transport import NativeTransport

        return NativeTransport(http, falls_back=self._protocol == "auto")


def new_write_id() -> str:
    """A name for one write: 32 random hex digits."""
    return secrets.token_hex(16)


def _pause_seconds(attempt: int) -> float:
    longest = min(_UPDATE_PAUSE_SECONDS_MAX, 0.02 * 2**attempt)
    return random.uniform(longest / 2, longest)  # noqa: S311 (spreads writers, hides nothing)


def _worst(failures: list[DynamoClientError]) -> DynamoClientError:
    """What to raise when no node did it: a node's own words count more than silence."""
    maybe_done = any(failure.maybe_done for failure in failures)
    spoken = [failure for failure in failures if not isinstance(failure, Unreachable)]
    if spoken:
        spoken[-1].maybe_done = maybe_done
        return spoken[-1]
    said = "; ".join(failure.detail for failure in failures)
    count = "the node" if len(failures) == 1 else f"none of {len(failures)} nodes"
    what = f"{count} {'did not answer' if len(failures) == 1 else 'answered'}: {said}"
    if maybe_done:
        what += " (the write may have been carried out nevertheless)"
    return Unreachable(what, kind=failures[-1].kind if failures else "", maybe_done=maybe_done)
