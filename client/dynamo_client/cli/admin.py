"""The command line's door to the nodes' admin port.

Owns which node is asked for the ring, for its own keys and for the cluster's
id. Forbidden here: clients' requests; those go through the client.
"""

import asyncio
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from dynamo_client.errors import DynamoClientError, UnexpectedAnswer, Unreachable
from dynamo_client.http_transport import HttpTransport
from dynamo_core.ring import Ring

_TIMEOUT_MS = 5_000
_PAGE_KEYS = 1_000
# However many keys a partition has: a node that pages in a circle must end.
_PAGES_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Listed:
    """The keys of one partition that one node holds, and what it says of who holds it."""

    keys: set[bytes]
    holders: frozenset[str]
    rows: frozenset[str]
    """What names the holders' tokens, on each page: several if a slot moved meanwhile."""
    counts: bool
    """Whether the node holds a slot itself and its copy is complete."""


class Admin:
    """The admin ports that `view` (from `/cluster`) names; `token` where they need one."""

    def __init__(self, view: Mapping[str, Any], token: str = "") -> None:
        self._token = token
        self._transport = HttpTransport()
        nodes = view.get("nodes")
        self._urls = {
            str(node["name"]): str(node["admin"]).rstrip("/")
            for node in (nodes if isinstance(nodes, list) else ())
            if isinstance(node, dict) and node.get("admin") and node.get("name")
        }
        states = {str(node.get("name")): node.get("state") for node in nodes or ()}
        # Nodes that are said to be up first: a dead one costs its timeout.
        self._order = sorted(self._urls, key=lambda name: states.get(name) != "up")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._transport.close()

    async def ring(self) -> Ring:
        """The highest ring among the nodes that answer; the first error if none does."""
        answers = await asyncio.gather(
            *(self._get(name, "/admin/ring") for name in self._order), return_exceptions=True
        )
        rings = [Ring.from_json(answer) for answer in answers if isinstance(answer, dict)]
        if rings:
            return max(rings, key=lambda ring: ring.name)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        raise Unreachable("no node names an admin address in /cluster")

    async def cluster_id(self) -> str:
        """The cluster's id from any node; "" if no admin port answers here."""
        for name in self._order:
            try:
                return str((await self._get(name, "/admin/status")).get("cluster_id", ""))
            except DynamoClientError:
                continue
        return ""

    async def keys(self, name: str, partition: int) -> Listed:
        """The keys of `partition` that the node called `name` holds itself."""
        found: set[bytes] = set()
        rows: set[str] = set()
        after = ""  # what a page names as next is the node's own affair
        for _ in range(_PAGES_MAX):
            path = f"/admin/keys?partition={partition}&limit={_PAGE_KEYS}{after}"
            page = await self._get(name, path)
            try:
                found.update(b64decode(key, validate=True) for key in page["keys"])
                rows.add(str(page["row"]))
                following = page.get("next")
                if following is None:
                    holders = frozenset(map(str, page["holders"]))
                    return Listed(found, holders, frozenset(rows), bool(page["counts"]))
                after = "&after=" + quote(following, safe="")
            except (KeyError, TypeError, ValueError) as error:
                raise UnexpectedAnswer(f"{name}: its list of keys can't be read") from error
        raise UnexpectedAnswer(f"{name}: its list of the keys of {partition} has no end")

    async def replica(self, name: str, key: bytes) -> dict[str, Any]:
        """What the node called `name` itself holds of `key`, without a quorum."""
        return await self._get(name, f"/admin/replica/{quote(key, safe='')}")

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes that name an admin address, those said to be up first."""
        return tuple(self._order)

    async def _get(self, name: str, path: str) -> dict[str, Any]:
        url = self._urls.get(name)
        if url is None:
            raise Unreachable(f"{name}: its admin address isn't known")
        return await self._transport.json(f"{url}{path}", _TIMEOUT_MS, self._token)
