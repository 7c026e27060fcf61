"""New settings for nodes that run: one restart after another.

Owns the part of a node's configuration that the spec decides, its name (a
hash), and the order of restarts. Forbidden: who is a member.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from dynamo_operator.observed import ObservedNode
from dynamo_operator.spec import DynamoCluster
from dynamo_operator.steps import AwaitReady, Blocked, RestartNode, Step


def settings(cluster: DynamoCluster) -> dict[str, Any]:
    """The part of a node's configuration that the spec decides."""
    spec = cluster.spec
    return {
        "quorum": {"r": spec.quorum.r, "w": spec.quorum.w},
        "reconciliation": spec.reconciliation,
        "durability": spec.durability,
        "limits": {
            "valueBytesMax": spec.limits.value_bytes_max,
            "siblingsMax": spec.limits.siblings_max,
            "objectBytesMax": spec.limits.object_bytes_max,
        },
    }


def settings_hash(cluster: DynamoCluster) -> str:
    """Names the settings that a node runs with: 16 hex."""
    text = json.dumps(settings(cluster), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def roll(nodes: Sequence[ObservedNode], wanted_hash: str) -> list[Step]:
    """Restarts of nodes with older settings, one at a time, each waiting for the one before."""
    old = [node for node in nodes if node.running and node.settings_hash != wanted_hash]
    if not old:
        return []
    down = [node.name for node in nodes if node.held]
    if down:
        return [Blocked(f"new settings wait until {', '.join(down)} is started again")]
    steps: list[Step] = []
    for node in old:
        steps += [RestartNode(node.name), AwaitReady((node.name,))]
    return steps
