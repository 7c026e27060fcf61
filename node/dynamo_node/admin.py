"""Admin: the operator's port 8081 (contract, section 4).

Owns status, ring, and what this replica holds of its own. Off loopback every
request needs the bearer token. Nothing here asks a quorum.
"""

import logging
from base64 import b64encode, urlsafe_b64decode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from aiohttp import web
from aiohttp.typedefs import Handler

from dynamo_core import objects
from dynamo_core.errors import CallerError
from dynamo_core.records import DIGEST_BYTES
from dynamo_core.ring import Ring
from dynamo_core.rounds import last_before
from dynamo_core.versions import dot_text
from dynamo_node import digests, problems
from dynamo_node.admin_token import AdminToken
from dynamo_node.fields import decoded
from dynamo_node.http_server import guarded
from dynamo_node.kv import written_at
from dynamo_node.problems import ProblemError, bad_request, json_response
from dynamo_node.rings import RingConflictError
from dynamo_node.storage import OBJECTS, StorageError

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

RING_BYTES_MAX: Final = 16 << 20
KEYS_LIMIT_MAX: Final = 10_000


def authorize(request: web.BaseRequest, token: AdminToken) -> None:
    """Raise ProblemError unless the request carries the admin token, where there is one."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    shown = given.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b""
    if not token.matches(shown):
        raise ProblemError(
            401,
            "unauthorized",
            "Not authorized",
            "send 'Authorization: Bearer TOKEN' with the token of Secret NAME-admin",
        )


class AdminDoor:
    """Everything on port 8081."""

    def __init__(self, node: "Node", token: AdminToken) -> None:
        self._node = node
        self._token = token
        self.app = web.Application(
            middlewares=[self._middleware], client_max_size=RING_BYTES_MAX, debug=False
        )
        self.app.add_routes(
            [
                web.get("/admin/status", self._status),
                web.get("/admin/settings", self._get_settings),
                web.put("/admin/settings", self._put_settings),
                web.get("/admin/ring", self._get_ring),
                web.post("/admin/ring", self._post_ring),
                web.get("/admin/replica/{key}", self._replica),
                web.get("/admin/digest", self._digest),
                web.post("/admin/partitions/{partition}/accept-loss", self._accept_loss),
                web.get("/admin/keys", self._keys),
                web.get("/admin/history", self._history),
                web.get("/admin/tombstones", self._tombstones),
                web.get("/admin/transfers", self._transfers),
                web.post("/admin/repair", self._repair),
            ]
        )

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        answer: web.StreamResponse = await guarded(self._authorized)(request, handler)
        return answer

    async def _authorized(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        authorize(request, self._token)
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            raise problems.method_not_allowed(request.method, allowed) from error
        except web.HTTPRequestEntityTooLarge as error:
            raise problems.too_large(f"the body is over {RING_BYTES_MAX} bytes") from error
        except web.HTTPNotFound as error:
            raise problems.not_found(
                f"there is nothing at {request.path[:80]!r}; there are /admin/status, "
                "/admin/settings, /admin/ring, /admin/replica/{key}, /admin/digest, /admin/keys, "
                "/admin/history, /admin/repair, "
                "/admin/tombstones, /admin/transfers"
            ) from error

    async def _status(self, request: web.Request) -> web.Response:
        status = self._node.status()
        try:
            # Some of it is taken for proof: that has to be on the disk before it is said.
            await self._node.disk.store.durable()
        except StorageError:
            # The rest is for people, who want to see what is wrong.
            del status["handover"]
            status["settings"] = None
        return json_response(status)

    async def _get_settings(self, request: web.Request) -> web.Response:
        now = self._node.settings.now
        await self._node.disk.store.durable()  # nothing is told that a crash could take back
        return json_response(now.to_json())

    async def _put_settings(self, request: web.Request) -> web.Response:
        """r, w and limits from now on; what the body leaves out is as the file says."""
        node = self._node
        try:
            wanted = node.settings.wanted(decoded(await request.read()))
            ring = node.topology.ring
            await node.settings.put(wanted, None if ring is None else ring.replication)
        except CallerError as error:
            raise bad_request(str(error)) from error
        return json_response(wanted.to_json())

    async def _transfers(self, request: web.Request) -> web.Response:
        """What is on its way to this node, and what has come since its start."""
        return json_response(self._node.transfers.report())

    async def _history(self, request: web.Request) -> web.Response:
        """What happened to the members (P§4.8.1): administrators' acts, and what nodes saw."""
        ring = self._node.topology.ring
        acts = [] if ring is None else ring.to_json()["history"]
        return json_response({"ring": acts, "events": self._node.gossip.history()})

    async def _get_ring(self, request: web.Request) -> web.Response:
        ring = self._node.topology.ring
        if ring is None:
            raise problems.not_found("this node holds no ring yet; post the first one")
        return json_response(ring.to_json())

    async def _post_ring(self, request: web.Request) -> web.Response:
        try:
            ring = Ring.from_bytes(await request.read())
            await self._node.rings.post(ring)
        except CallerError as error:
            raise bad_request(str(error)) from error
        except RingConflictError as error:
            held = self._node.topology.ring
            raise ProblemError(
                409,
                "ring-conflict",
                "Another ring is held",
                str(error),
                ring=None if held is None else held.to_json(),
            ) from error
        return json_response({"epoch": ring.epoch, "id": ring.id})

    async def _replica(self, request: web.Request) -> web.Response:
        node = self._node
        raw = request.raw_path.partition("?")[0].removeprefix("/admin/replica/")
        key = unquote_to_bytes(raw)
        if node.topology.ring is None:
            raise problems.overloaded("this node has no ring yet")
        place = node.topology.place(key)
        found = await node.replica.read_async(key, place.digest, place.owners)
        held = objects.ABSENT if found is None else objects.from_bytes(found)
        clock, owner = held.clock, node.topology.number in place.owners
        reap_round = node.replica.rounds.stamp(place.partition)
        if not owner:  # of hints, which may be newer than any round that this node has heard of
            reap_round = max(reap_round, last_before(node.topology.name))
        return json_response(
            {
                "key_base64": b64encode(key).decode(),
                "partition": place.partition,
                "owner": owner,
                "clock": {
                    "vector": {dot_text((a, 0))[:-2]: n for a, n in sorted(clock.vector.items())},
                    "dots": [dot_text(dot) for dot in sorted(clock.dots)],
                },
                "context": ""
                if found is None
                else node.config.keyring.seal(key, objects.clock_bytes_of(found), reap_round),
                "siblings": [_sibling(s) for s in held.siblings],
            }
        )

    async def _accept_loss(self, request: web.Request) -> web.Response:
        """A person gives up what a partition's copies may have lost, by its number."""
        node = self._node
        ring = node.topology.ring
        if ring is None:
            raise problems.overloaded("this node has no ring yet")
        text = request.match_info["partition"]
        partition = _whole(text, "partition", 0, ring.partitions - 1)
        if not node.recovery.answers_for(partition):
            others = node.custodies.table.answerable(partition)
            raise bad_request(
                f"partition {partition} is not one of this node's; ask one of "
                + ", ".join(map(node.topology.host_name, others))
            )
        if not node.recovery.accept_loss(partition):
            raise ProblemError(
                409,
                "not-recovering",
                "Nothing is lost",
                f"partition {partition} counts here without a possible loss; nothing was changed",
            )
        await node.disk.store.durable()
        return json_response({"partition": partition, "counts": True})

    async def _digest(self, request: web.Request) -> web.Response:
        """Roots of the kept hash trees; with `?verify=1` of the stored objects themselves."""
        node = self._node
        if node.topology.ring is None:
            raise problems.overloaded("this node has no ring yet")
        ring, held = node.topology.ring, sorted(node.topology.owned)
        verify = _whole(request.query.get("verify", "0"), "verify", 0, 1)
        roots = {}
        for partition in held:
            if verify:
                roots[partition] = await digests.recomputed(node.disk.store, ring, partition)
            else:
                roots[partition] = node.trees.root(partition)
        return json_response({str(p): root.hex() for p, root in roots.items()})

    async def _repair(self, request: web.Request) -> web.Response:
        """One full round of anti-entropy; `?partition=` for one partition alone."""
        node = self._node
        ring = node.topology.ring
        if ring is None:
            raise problems.overloaded("this node has no ring yet")
        partition = None
        if "partition" in request.query:
            partition = _whole(request.query["partition"], "partition", 0, ring.partitions - 1)
            if partition not in node.topology.owned:
                names = ", ".join(map(node.topology.host_name, node.topology.holders(partition)))
                raise bad_request(f"partition is {partition}; it is held by {names}, not here")
        if node.antientropy.repairing:
            raise ProblemError(
                409, "repair-running", "A repair is running", "wait for its end, then ask again"
            )
        return json_response(await node.antientropy.repair(partition))

    async def _tombstones(self, request: web.Request) -> web.Response:
        """What blocks the reaping of each partition's tombstones, a page at a time."""
        query = request.query
        limit = _whole(query.get("limit", "1000"), "limit", 1, KEYS_LIMIT_MAX)
        after = _whole(query["after"], "after", 0, 0xFFFF) if "after" in query else -1
        return json_response(self._node.reaper.report(after, limit))

    async def _keys(self, request: web.Request) -> web.Response:
        """This node's own keys of one partition, a page at a time, and who holds it by now
        (`dynamo export`)."""
        node = self._node
        ring = node.topology.ring
        if ring is None:
            raise problems.overloaded("this node has no ring yet")
        query = request.query
        partition = _whole(query.get("partition", ""), "partition", 0, ring.partitions - 1)
        limit = _whole(query.get("limit", "1000"), "limit", 1, KEYS_LIMIT_MAX)
        start, end = digests.partition_range(ring, partition)
        after = query.get("after", "")
        if after:
            start = _place_after(after, start, end)
        pairs = await node.disk.store.scan_async(OBJECTS, start, end, limit)
        more, topology = len(pairs) == limit, node.topology
        return json_response(
            {
                "keys": [b64encode(place[DIGEST_BYTES:]).decode() for place, _ in pairs],
                "next": digests.cursor(pairs[-1][0]) if more else None,
                "holders": [topology.host_name(n) for n in topology.holders(partition)],
                "row": topology.digest(partition).hex(),
                "counts": node.antientropy.view.counts(partition),
            }
        )


def _place_after(after: str, start: bytes, end: bytes) -> bytes:
    """The first place behind the one that the cursor `after` names, within start..end."""
    try:
        place = urlsafe_b64decode(after + "=" * (-len(after) % 4))
    except (Base64Error, ValueError):
        place = b""
    # The decoder skips foreign characters; only a cursor that was given out will do.
    if digests.cursor(place) != after or not start <= place < end:
        raise bad_request(f"after is {after[:40]!r}; it is the 'next' of a page of this partition")
    return place + b"\x00"


def _whole(text: str, name: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise bad_request(f"{name} is {text[:40]!r}; a whole number in {low}..{high} is needed")


def _sibling(sibling: objects.Sibling) -> dict[str, Any]:
    value = sibling.value
    return {
        "dot": dot_text(sibling.dot),
        "value": None if value is None else b64encode(value).decode(),
        "tombstone": value is None,
        "content_type": sibling.content_type,
        "write_id": sibling.write_id.hex(),
        "written_at": written_at(sibling.written_ms),
    }
