"""The synchronous twin of the client: the same names, for code without an event loop.

Owns one thread with an event loop per client. Safe to use from several
threads. Forbidden here: any behaviour of its own; everything is the async
client's.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from dynamo_client.client import TIMEOUT_MS, Protocol
from dynamo_client.client import DynamoClient as AsyncClient
from dynamo_client.items import OCTET_STREAM, DeleteResult, Item, PutResult

T = TypeVar("T")


class DynamoClient:
    """A blocking client, used as `with DynamoClient(url) as kv`. Arguments as there."""

    def __init__(
        self,
        urls: str | Iterable[str],
        *,
        timeout_ms: int = TIMEOUT_MS,
        r: int | None = None,
        w: int | None = None,
        discover: bool = True,
        protocol: Protocol = "auto",
    ) -> None:
        self._client = AsyncClient(
            urls, timeout_ms=timeout_ms, r=r, w=w, discover=discover, protocol=protocol
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="dynamo-client", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        self._run(self._client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; a second call does nothing."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def get(
        self,
        key: bytes | str,
        *,
        r: int | None = None,
        timeout_ms: int | None = None,
        context: str | None = None,
    ) -> Item:
        """All values of `key` and their context."""
        return self._run(self._client.get(key, r=r, timeout_ms=timeout_ms, context=context))

    def put(
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
        """Write `value` in the place of everything that `context` covers."""
        return self._run(
            self._client.put(
                key,
                value,
                context=context,
                content_type=content_type,
                w=w,
                timeout_ms=timeout_ms,
                write_id=write_id,
            )
        )

    def delete(
        self,
        key: bytes | str,
        *,
        context: str | None = None,
        r: int | None = None,
        w: int | None = None,
        timeout_ms: int | None = None,
        write_id: str | None = None,
    ) -> DeleteResult:
        """Delete what `context` covers; without one, what the node reads."""
        return self._run(
            self._client.delete(
                key, context=context, r=r, w=w, timeout_ms=timeout_ms, write_id=write_id
            )
        )

    def update(
        self,
        key: bytes | str,
        merge: Callable[[list[bytes]], bytes],
        *,
        attempts: int = 10,
        context: str | None = None,
        content_type: str = OCTET_STREAM,
        r: int | None = None,
        w: int | None = None,
        timeout_ms: int | None = None,
    ) -> PutResult:
        """Read, merge the siblings, write with the read's context; try again what may succeed.

        `merge` runs in a thread of its own and may use this client.
        """

        async def merge_aside(values: list[bytes]) -> bytes:
            return await asyncio.to_thread(merge, values)

        return self._run(
            self._client.update(
                key,
                merge_aside,
                attempts=attempts,
                context=context,
                content_type=content_type,
                r=r,
                w=w,
                timeout_ms=timeout_ms,
            )
        )

    def cluster(self, *, timeout_ms: int | None = None) -> dict[str, Any]:
        """The cluster as one node sees it."""
        return self._run(self._client.cluster(timeout_ms=timeout_ms))

    @property
    def nodes(self) -> tuple[str, ...]:
        """The URLs of the nodes that take this client's requests now."""
        return self._client.nodes

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("this DynamoClient is closed")
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("the synchronous client can't be called from its own event loop")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C in the waiting thread ends the call as well
            raise
