"""The single hop: calls go straight to a replica of their key over the native protocol (P§6.4).

Owns the links to the nodes that `/cluster` names, the ring and how it is kept
fresh, and which owners a key has. What can't go over a link goes over HTTP, if
that is allowed. Forbidden here: retries, sockets (`native_link`), and the form
of operations (`native_answers`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from dynamo_client.errors import DynamoClientError, Unreachable
from dynamo_client.items import DeleteResult, Item, PutResult
from dynamo_client.native_answers import (
    delete_result_of,
    item_of,
    pack_delete,
    pack_get,
    pack_put,
    put_result_of,
)
from dynamo_client.native_link import Cluster, Link
from dynamo_client.routing import base_url
from dynamo_client.transport import DeleteCall, GetCall, PutCall, Transport
from dynamo_core.errors import CallerError
from dynamo_core.frames import RingName
from dynamo_core.ring import Ring, position
from dynamo_core.wire import Type

# The node answers this much before our own patience ends, so that its words win.
_MARGIN_MS: Final = 100
_RING_TIMEOUT_MS: Final = 1_000
_RING_SECONDS_MIN: Final = 0.2
_FIRST_DIAL_SECONDS_MAX: Final = 0.5
_LINKS_MAX: Final = 1024


class NativeTransport:
    """`Transport` over one framed, multiplexed connection to each node.

    `http` serves `/cluster` and `/readyz`, and with `falls_back` every call to
    a node that has no link: because its native address can't be reached from
    here, because it is reached by https (the native protocol has no TLS), or
    because it was given by a URL that `/cluster` doesn't name.
    """

    def __init__(self, http: Transport, *, falls_back: bool) -> None:
        self.on_new_ring: Callable[[], None] = lambda: None
        self._http = http
        self._falls_back = falls_back
        self._links: dict[str, Link] = {}
        self._cluster = Cluster(on_newer_ring=self._ring_is_old)
        self._ring: Ring | None = None
        self._ring_bytes = b""
        # partition -> its owners' links, in every rotation
        self._rows: dict[int, tuple[tuple[Link, ...], ...]] = {}
        self._turn = 0
        self._closing: set[asyncio.Future[None]] = set()
        self._refresh: asyncio.Task[None] | None = None
        self._refresh_after = 0.0
        self._now = asyncio.get_running_loop().time

    async def close(self) -> None:
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)
        links, self._links = self._links, {}
        await asyncio.gather(*(link.close() for link in links.values()), *self._closing)
        await self._http.close()

    @property
    def linked(self) -> tuple[str, ...]:
        """The nodes that are reached natively now."""
        return tuple(node for node, link in self._links.items() if link.is_up)

    def owners(self, key: bytes, *, reads: bool) -> Sequence[str]:
        """The owners that are linked: for a write in the ring's order, so that a key's clock
        doesn't grow by a name for each of them; for a read by turns, so that hot keys are shared.
        """
        ring = self._ring
        if ring is None:
            return () if self._falls_back else self.linked
        partition = ring.partition_of(position(key))
        rotations = self._rows.get(partition) or self._row(ring, partition)
        if not rotations:
            return ()
        turn = 0
        if reads:
            turn = self._turn = (self._turn + 1) % len(rotations)
        return [link.node for link in rotations[turn] if link.is_up]

    async def get(self, node: str, call: GetCall, timeout_ms: int) -> Item:
        link = self._links.get(node)
        if link is None or not link.is_up:
            return await self._instead(node, link).get(node, call, timeout_ms)
        kind, payload = await link.ask(
            Type.OPERATION, pack_get(call, node), timeout_ms, _node_ms(timeout_ms)
        )
        return item_of(call.key, kind, payload, node)

    async def put(self, node: str, call: PutCall, timeout_ms: int) -> PutResult:
        link = self._links.get(node)
        if link is None or not link.is_up:
            return await self._instead(node, link).put(node, call, timeout_ms)
        kind, payload = await link.ask(
            Type.OPERATION, pack_put(call, node), timeout_ms, _node_ms(timeout_ms), writes=True
        )
        return put_result_of(kind, payload, node)

    async def delete(self, node: str, call: DeleteCall, timeout_ms: int) -> DeleteResult:
        link = self._links.get(node)
        if link is None or not link.is_up:
            return await self._instead(node, link).delete(node, call, timeout_ms)
        kind, payload = await link.ask(
            Type.OPERATION, pack_delete(call, node), timeout_ms, _node_ms(timeout_ms), writes=True
        )
        return delete_result_of(kind, payload, node)

    async def cluster(self, node: str, timeout_ms: int) -> dict[str, Any]:
        """The view, taken over: links follow it, and the ring is fetched with it."""
        view = await self._http.cluster(node, timeout_ms)
        self._learn(view)
        # Nobody waits twice for a node whose address means nothing here.
        dials = [asyncio.ensure_future(link.tried.wait()) for link in self._links.values()]
        if dials:
            seconds = min(timeout_ms / 1000, _FIRST_DIAL_SECONDS_MAX)
            _, late = await asyncio.wait(dials, timeout=seconds)
            for dial in late:
                dial.cancel()
        for link in self._links.values():
            link.tried.set()
        await self._fetch_ring()
        return view

    async def ready(self, node: str, timeout_ms: int) -> bool:
        return await self._http.ready(node, timeout_ms)

    def _instead(self, node: str, link: Link | None) -> Transport:
        """HTTP, where it is allowed to stand in."""
        if self._falls_back:
            return self._http
        why = link.trouble if link is not None else "/cluster names no native address for it"
        if node.startswith("https:"):
            why = "the native protocol has no TLS, and the node was given by https"
        raise Unreachable(f"{node}: no native connection ({why})", node=node, kind="no-connection")

    # Links

    def _learn(self, view: Mapping[str, Any]) -> None:
        """Open links to the nodes that the view names, and close those of nodes that left."""
        wanted = dict(_addresses(view))
        for node, link in list(self._links.items()):
            if wanted.get(node) != (*link.address, link.target):
                del self._links[node]
                self._rows.clear()
                closing = asyncio.ensure_future(link.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        for node, (host, port, name) in wanted.items():
            if node not in self._links and len(self._links) < _LINKS_MAX:
                self._links[node] = Link(node, host, port, name, self._cluster)
                self._rows.clear()

    def _row(self, ring: Ring, partition: int) -> tuple[tuple[Link, ...], ...]:
        by_name = {link.target: link for link in self._links.values()}
        names = [ring.member(number).name for number in ring.slots[partition]]
        links = [by_name[name] for name in names if name in by_name]
        rotations = tuple(tuple(links[at:] + links[:at]) for at in range(len(links)))
        self._rows[partition] = rotations
        return rotations

    # The ring

    def _ring_is_old(self) -> None:
        """A node's frame names a newer ring than ours: fetch it, but not for every frame."""
        if self._refresh is None and self._now() >= self._refresh_after:
            self._refresh_after = self._now() + _RING_SECONDS_MIN
            self._refresh = asyncio.create_task(self._fetch_ring())
            self._refresh.add_done_callback(self._refreshed)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refresh = None

    async def _fetch_ring(self) -> None:
        """Ask the linked nodes, by turns, until one tells a ring; without one ours stays."""
        self._turn += 1
        linked = [link for link in self._links.values() if link.is_up]
        start = self._turn % len(linked) if linked else 0
        for link in linked[start:] + linked[:start]:
            try:
                kind, payload = await link.ask(
                    Type.CLUSTER, b"", _RING_TIMEOUT_MS, _RING_TIMEOUT_MS
                )
            except DynamoClientError:
                continue
            if kind != Type.CLUSTER_REPLY or not payload:
                continue
            if payload != self._ring_bytes:
                self._take(payload)
            return

    def _take(self, payload: bytes) -> None:
        try:
            ring = Ring.from_bytes(payload)
        except CallerError:
            return  # of a later version, say: any node still serves every key
        if bytes.fromhex(ring.cluster_id) != self._cluster.id:
            return
        before = self._ring
        if before is None or ring.name > before.name:
            self._ring, self._ring_bytes = ring, payload
            self._cluster.ring_name = RingName(*ring.name)
            self._rows.clear()
            if before is not None and before.everybody != ring.everybody:
                self.on_new_ring()  # its members' addresses are the view's to tell


def _addresses(view: Mapping[str, Any]) -> list[tuple[str, tuple[str, int, str]]]:
    """(URL, (host, native port, name)) of every node that has them; what is odd is left out."""
    found: list[tuple[str, tuple[str, int, str]]] = []
    nodes = view.get("nodes")
    for entry in nodes if isinstance(nodes, list) else ():
        try:
            node = base_url(str(entry["http"]))
            native = urlsplit("//" + str(entry["native"]))
            host, port, name = native.hostname, native.port, str(entry["name"])
        except (KeyError, TypeError, ValueError, DynamoClientError):
            continue
        if host and port and name and not node.startswith("https:"):
            found.append((node, (host, port, name)))
    return found


def _node_ms(timeout_ms: int) -> int:
    return max(1, timeout_ms - min(_MARGIN_MS, timeout_ms // 4))
