"""What a data folder remembers of a local cluster and of each of its nodes.

Owns the values of `state.json` and their form as JSON. Forbidden: files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dynamo_operator.local.processes import Process

Wanted = Literal["up", "down", "paused"]
Phase = Literal["stopped", "starting", "running", "stopping", "failed"]


@dataclass(slots=True)
class NodeRecord:
    """What is remembered of a node. index decides its ports as long as the node exists."""

    index: int
    wanted: Wanted = "up"
    act: str = ""  # the command that made it wanted so
    process: Process | None = None
    settings_hash: str = ""
    when_scaled: str = "Retain"  # or Delete: what its pool last wanted of its data


@dataclass(slots=True)
class State:
    """state.json. port is node 0's HTTP port; manifest and replicas are what `up` was given.

    scaled: replicas by pool that `scale` has set since the manifest had the stamp scaled_at.
    give_up: numbers of nodes that a person has given up. plan: what is being done, for people.
    """

    port: int
    manifest: str = ""
    replicas: int | None = None
    phase: Phase = "stopped"
    failure: str = ""
    refusals: list[str] = field(default_factory=list)
    scaled: dict[str, int] = field(default_factory=dict)
    scaled_at: list[int] = field(default_factory=list)
    give_up: list[int] = field(default_factory=list)
    plan: list[str] = field(default_factory=list)
    supervisor: Process | None = None
    nodes: dict[str, NodeRecord] = field(default_factory=dict)

    def record(self, name: str) -> NodeRecord:
        """The record of a node, made with the lowest free index if it is new."""
        if name not in self.nodes:
            taken = {record.index for record in self.nodes.values()}
            self.nodes[name] = NodeRecord(min(set(range(len(taken) + 1)) - taken))
        return self.nodes[name]


def state_from(value: dict[str, Any]) -> State:
    """The state in a JSON value. Raises KeyError, TypeError or AttributeError if it is none."""
    value["supervisor"] = _process(value["supervisor"])
    value["nodes"] = {
        name: NodeRecord(**{**record, "process": _process(record["process"])})
        for name, record in value["nodes"].items()
    }
    return State(**value)


def _process(value: dict[str, Any] | None) -> Process | None:
    return None if value is None else Process(**value)
