"""Inspector: what each replica has of one key, for a person who looks (the console).

Owns the question (INSPECT) that this node puts to all who may have something of a key,
its own answer to it, and the picture that comes of the answers. Nothing is repaired,
merged or counted by that: who looks finds the store as it is.

Forbidden here: quorums, and any use of the picture as proof.
"""

import asyncio
from base64 import b64encode
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from dynamo_core import inspection, records, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import Frame
from dynamo_core.inspection import RECORDS_MAX, Record, Standing, Told, Version
from dynamo_core.versions import Clock, dot_text
from dynamo_core.wire import Code, Type
from dynamo_node.awaiting import given
from dynamo_node.inbound import Inbound
from dynamo_node.topology import Place

if TYPE_CHECKING:
    from dynamo_node.node import Node

ASK_TIMEOUT_S: Final = 1.0
VERSIONS_MAX: Final = 100
LANES_MAX: Final = 32
DOTS_MAX: Final = 64
VALUE_BYTES_MAX: Final = 64 << 10


class Heard(NamedTuple):
    """One replica's answer; `told` is None when there was none, and `why` says so."""

    told: Told | None
    took_s: float = 0.0
    why: str = ""


class Inspector:
    """One per node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        node.handlers[Type.INSPECT] = self._asked

    # What this node has

    def _asked(self, caller: Inbound, frame: Frame) -> None:
        key, value_bytes = inspection.unpack_ask(frame.payload)
        if self._node.topology.ring is None:
            no = wire.pack_error(Code.NOT_READY, "this node has no ring yet")
            caller.reply(frame.request_id, Type.ERROR, no)
            return

        async def answer() -> bytes:
            return inspection.pack_told(await self._own(key, value_bytes))

        self._node.answer_later(caller, frame, Type.INSPECT_REPLY, answer)

    async def _own(self, key: bytes, value_bytes: int) -> Told:
        """This node's copy and hints; raises DynamoError where they can't be read."""
        node, value_bytes = self._node, min(value_bytes, VALUE_BYTES_MAX)
        place = node.topology.place(key)
        own = await node.replica.read_own_async(place.digest + key)
        found = [] if own is None else [inspection.cut(0, own, value_bytes)]
        for target in node.replica.hints.targets_in(place.partition)[: RECORDS_MAX - 1]:
            at = records.hint_key(target, place.digest, key)
            hint = await given(partial(node.replica.read_hint, at))
            if hint is not None:
                found.append(inspection.cut(target, hint, value_bytes))
        return Told(self._standing(place), tuple(found))

    def _standing(self, place: Place) -> Standing:
        node = self._node
        if node.topology.number not in (*place.owners, *place.incoming):
            return Standing.NONE
        return Standing.COUNTS if node.reaper.copies.answers(place.partition) else Standing.LEARNS

    # What all have

    async def look(self, key: bytes, value_bytes: int) -> dict[str, Any]:
        """The picture of `key`, as JSON; the node must hold a ring."""
        place = self._node.topology.place(key)
        asked = (*place.owners, *place.incoming, *place.others)
        answers = await asyncio.gather(*(self._hear(n, key, value_bytes) for n in asked))
        heard = dict(zip(asked, answers, strict=True))
        told = {number: one.told for number, one in heard.items() if one.told is not None}
        versions = inspection.versions(told)
        shown = versions[:VERSIONS_MAX]
        clock = Clock({})
        for one in told.values():
            clock = clock.join(one.whole.clock)
        return {
            "answered_by": self._node.config.name,
            "key": named(key),
            "position": place.digest.hex(),
            "partition": place.partition,
            "reconciliation": self._node.config.reconciliation,
            "replicas": [self._replica(n, place, one, shown) for n, one in heard.items()],
            "versions": [self._version(version) for version in shown],
            "versions_left_off": len(versions) - len(shown),
            "clock": self._lanes(clock),
        }

    async def _hear(self, number: int, key: bytes, value_bytes: int) -> Heard:
        began = self._loop.time()
        try:
            if number == self._node.topology.number:
                return Heard(await self._own(key, value_bytes), self._loop.time() - began)
            link = self._node.topology.links.get(number)
            if link is None or not link.up:
                return Heard(None, why="there is no connection to it")
            ask = inspection.pack_ask(key, value_bytes)
            kind, reply = await link.ask(Type.INSPECT, ask, ASK_TIMEOUT_S)
            took_s = self._loop.time() - began
            if kind == Type.INSPECT_REPLY:
                return Heard(inspection.unpack_told(reply), took_s)
            if kind == Type.ERROR:
                return Heard(None, took_s, wire.unpack_error(reply)[1] or "it refused")
            return Heard(None, took_s, f"no answer within {ASK_TIMEOUT_S:g} s")
        except Corrupt as error:
            return Heard(None, self._loop.time() - began, f"what is there can't be read: {error}")
        except DynamoError as error:
            return Heard(None, self._loop.time() - began, str(error))

    # As JSON

    def _replica(
        self, number: int, place: Place, heard: Heard, versions: list[Version]
    ) -> dict[str, Any]:
        role = "holder" if number in place.owners else (
            "incoming" if number in place.incoming else "stand-in")  # fmt: skip
        told = heard.told
        copy = None if told is None else next((r for r in told.records if not r.hint_for), None)
        return {
            "node": self._node.topology.host_name(number),
            "number": number,
            "role": role,
            "state": "unreachable" if told is None else _state(copy),
            "why": heard.why,
            "counts": told is not None and told.standing == Standing.COUNTS,
            "milliseconds": round(1000 * heard.took_s, 2),
            "bytes": 0 if copy is None else copy.size,
            "clock_entries": 0 if copy is None else _entries(copy.held.clock),
            "hints": [self._hint(r) for r in (() if told is None else told.records) if r.hint_for],
            "seen": [version.seen.get(number) for version in versions],
        }

    def _hint(self, record: Record) -> dict[str, Any]:
        name = self._node.topology.host_name(record.hint_for)
        return {"for": name, "bytes": record.size, "state": _state(record)}

    def _version(self, version: Version) -> dict[str, Any]:
        sibling = version.sibling
        value = sibling.value
        return {
            "dot": dot_text(sibling.dot),
            "node": self._node.topology.host_name(_number(sibling.dot[0])),
            "tombstone": value is None,
            "content_type": sibling.content_type,
            "written_ms": sibling.written_ms,
            "bytes": version.length,
            "value": None if value is None else b64encode(value).decode(),
            "stands": version.stands,
        }

    def _lanes(self, clock: Clock) -> dict[str, Any]:
        """The joined clock by actor: all up to `upto`, and single dots beyond."""
        actors = sorted({*clock.vector, *(actor for actor, _ in clock.dots)})
        return {
            "lanes": [
                {
                    "actor": dot_text((actor, 0))[:-2],
                    "node": self._node.topology.host_name(_number(actor)),
                    "upto": clock.vector.get(actor, 0),
                    "dots": sorted(n for of, n in clock.dots if of == actor)[:DOTS_MAX],
                }
                for actor in actors[:LANES_MAX]
            ],
            "left_off": max(0, len(actors) - LANES_MAX),
        }


def named(key: bytes) -> dict[str, Any]:
    """A key in all the forms that people and URLs use; `text` is None if it isn't UTF-8."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = None
    return {
        "text": text,
        "hex": key.hex(),
        "base64": b64encode(key).decode(),
        "percent": quote(key, safe=""),
    }


def _state(record: Record | None) -> str:
    if record is None or not record.held.siblings:
        return "absent"
    alive = any(sibling.value is not None for sibling in record.held.siblings)
    return "present" if alive else "tombstone"


def _entries(clock: Clock) -> int:
    return len(clock.vector) + len(clock.dots)


def _number(actor: bytes) -> int:
    return int.from_bytes(actor[:4], "big")
