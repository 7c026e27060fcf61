"""The one door to the nodes' admin HTTP.

Owns requests, deadlines and the check that whoever answers is the node that
was meant. An answer that can't be trusted is no status at all: unknown, never
proof. Forbidden: deciding what a status means.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from dynamo_core.errors import CallerError, DynamoError
from dynamo_core.ring import Ring
from dynamo_operator.observed import Address, DiskSpace, Handover, LiveSettings, NodeStatus
from dynamo_operator.spans import Span, headers, span
from dynamo_operator.spec import Limits
from dynamo_telemetry.endpoints import Tracing

STATUS_TIMEOUT_SECONDS = 2.0
RING_TIMEOUT_SECONDS = 10.0
SETTINGS_TIMEOUT_SECONDS = 5.0


class NodeRefused(DynamoError):
    """A node did not take or give what it was asked for; the text says what it answered."""


class NodeBehind(NodeRefused):
    """A node holds an older ring than the parent of the one posted: its peers teach it."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One look at a node. `stranger` says who answered in its place, "" normally."""

    status: NodeStatus | None
    pid: int = 0
    hints_pending: int = 0
    version: str = ""
    stranger: str = ""


class Nodes:
    """A session with the admin HTTP of a cluster's nodes; use it as a context."""

    def __init__(self, cluster_id: str, admin_token: str = "") -> None:
        """admin_token: what nodes off loopback ask for; "" sends none."""
        self._cluster_id = cluster_id
        bearer = {"Authorization": f"Bearer {admin_token}"} if admin_token else {}
        self._session = aiohttp.ClientSession(trust_env=False, headers=bearer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._session.close()

    async def probe(self, name: str, address: Address) -> Probe:
        """Who answers at a node's address. Never raises: no answer is no status."""
        with _call("status", name, address) as traced:
            found = await self._probe(name, address)
            if found.status is None:
                traced.came_to(found.stranger or "no answer")
            return found

    async def _probe(self, name: str, address: Address) -> Probe:
        try:
            async with self._session.get(
                f"{_url(address)}/admin/status", timeout=_timeout(STATUS_TIMEOUT_SECONDS)
            ) as answer:
                if answer.status != 200:
                    return Probe(None, stranger=f"an HTTP {answer.status} at {_url(address)}")
                return self._read(name, await answer.json(content_type=None))
        except (aiohttp.ClientError, OSError, TimeoutError):
            return Probe(None)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return Probe(None, stranger=f"something unreadable at {_url(address)} ({error!r})")

    def _read(self, name: str, value: dict[str, Any]) -> Probe:
        if value["cluster_id"] != self._cluster_id or value["name"] != name:
            return Probe(None, stranger=f"{value['name']} of the cluster {value['cluster_name']}")
        if value["disk_id"] is None:  # its disk fails since its start: nothing is known of it
            return Probe(
                None,
                int(value["pid"]),
                stranger=f"{name} without a store: {value['disk']['reason']}",
            )
        ring = value["ring"] or {"epoch": 0, "id": ""}
        status = NodeStatus(
            number=value["number"],
            incarnation=str(value["incarnation"]),
            disk_id=str(value["disk_id"]),
            ring_epoch=int(ring["epoch"]),
            ring_id=str(ring["id"]),
            state=str(value["state"]),
            ready=value["ready"] is True,
            handover=_handover(value.get("handover")),
            disk=_disk(value.get("disk") or {}),
            hints_for={str(n): int(count) for n, count in value.get("hints_pending", {}).items()},
            settings=_settings(value.get("settings")),
        )
        hints = sum(status.hints_for.values())
        return Probe(status, int(value["pid"]), hints, str(value.get("version", "")))

    async def ring(self, name: str, address: Address) -> Ring:
        """The ring that a node holds. Raises NodeRefused."""
        with _call("get_ring", name, address):
            try:
                async with self._session.get(
                    f"{_url(address)}/admin/ring", timeout=_timeout(RING_TIMEOUT_SECONDS)
                ) as answer:
                    if answer.status != 200:
                        raise NodeRefused(f"{name} gives no ring: {await _told(answer)}")
                    return Ring.from_bytes(await answer.read())
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise NodeRefused(f"{name} gives no ring: {error!r}") from error
            except CallerError as error:
                raise NodeRefused(f"{name} gives a ring that is not valid: {error}") from error

    async def post_ring(self, name: str, address: Address, ring: Ring) -> None:
        """Hands a node the decided ring. Raises NodeBehind, or NodeRefused with its answer."""
        with _call("post_ring", name, address, changes=True, expected=(NodeBehind,)):
            try:
                async with self._session.post(
                    f"{_url(address)}/admin/ring",
                    data=ring.to_bytes(),
                    headers={"Content-Type": "application/json", **headers()},
                    timeout=_timeout(RING_TIMEOUT_SECONDS),
                ) as answer:
                    if answer.status != 200:
                        told = f"{name} does not take the ring: {await _told(answer)}"
                        behind = answer.status == 409 and await _holds_below(answer, ring.epoch)
                        raise (NodeBehind if behind else NodeRefused)(told)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise NodeRefused(f"{name} does not take the ring: {error!r}") from error

    async def transfers(self, name: str, address: Address) -> list[dict[str, Any]]:
        """What is on its way to this node, as it tells people. Never raises: else nothing."""
        with _call("transfers", name, address):
            try:
                async with self._session.get(
                    f"{_url(address)}/admin/transfers", timeout=_timeout(STATUS_TIMEOUT_SECONDS)
                ) as answer:
                    found = (await answer.json(content_type=None))["transfers"]
                    return found if isinstance(found, list) else []
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError):
                return []

    async def put_settings(self, name: str, address: Address, value: dict[str, Any]) -> None:
        """Tells a node its live settings, in its own JSON. Raises NodeRefused with its answer."""
        with _call("put_settings", name, address, changes=True):
            try:
                async with self._session.put(
                    f"{_url(address)}/admin/settings",
                    json=value,
                    headers=headers(),
                    timeout=_timeout(SETTINGS_TIMEOUT_SECONDS),
                ) as answer:
                    if answer.status != 200:
                        raise NodeRefused(
                            f"{name} does not take the settings: {await _told(answer)}"
                        )
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise NodeRefused(f"{name} does not take the settings: {error!r}") from error


def _call(
    what: str,
    name: str,
    address: Address,
    *,
    changes: bool = False,
    expected: tuple[type[Exception], ...] = (),
) -> AbstractContextManager[Span]:
    """The span of one request to a node."""
    to = {"dynamo.node": name, "server.address": address.host, "server.port": address.admin_port}
    return span(f"node.{what}", to, kind="client", changes=changes, expected=expected)


def _settings(value: dict[str, Any] | None) -> LiveSettings | None:
    if value is None:
        return None
    quorum, limits, tracing = value["quorum"], value["limits"], value.get("tracing")
    return LiveSettings(
        r=int(quorum["r"]),
        w=int(quorum["w"]),
        limits=Limits(
            value_bytes_max=int(limits["valueBytesMax"]),
            siblings_max=int(limits["siblingsMax"]),
            object_bytes_max=int(limits["objectBytesMax"]),
        ),
        tracing=None
        if tracing is None
        else Tracing(str(tracing["endpoint"]), float(tracing["sampleRatio"])),
    )


def _handover(value: dict[str, Any] | None) -> Handover | None:
    if value is None:
        return None
    return Handover(
        open_slots=int(value["open_slots"]),
        records=int(value["records"]),
        hints=int(value["hints"]),
        pulling=int(value["pulling"]),
        sealed_to=_by_number(value["sealed_to"]),
        held_by=_by_number(value["held_by"]),
    )


def _disk(value: dict[str, Any]) -> DiskSpace | None:
    if value.get("free_bytes") is None or "stored_bytes" not in value:
        return None
    room = int(value["free_bytes"]) - int(value["reserve_bytes"])
    return DiskSpace(value["state"] == "full", int(value["stored_bytes"]), max(0, room))


def _by_number(value: dict[str, Any]) -> dict[int, int]:
    return {int(number): int(count) for number, count in value.items()}


def _url(address: Address) -> str:
    return f"http://{address.host}:{address.admin_port}"


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)


async def _holds_below(answer: aiohttp.ClientResponse, epoch: int) -> bool:
    """Whether the ring in a 409 is older than this epoch."""
    try:
        value = await answer.json(content_type=None)
        return int(value["ring"]["epoch"]) < epoch
    except (aiohttp.ClientError, ValueError, KeyError, TypeError):
        return False


async def _told(answer: aiohttp.ClientResponse) -> str:
    """The detail of a problem+json answer, or its status."""
    try:
        value = await answer.json(content_type=None)
        return f"{value.get('title', answer.status)}: {value.get('detail', '')}"[:500]
    except (aiohttp.ClientError, ValueError, AttributeError):
        return f"HTTP {answer.status}"
