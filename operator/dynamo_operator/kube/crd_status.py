"""The fields of a DynamoCluster's status.

Owns their names, types and meanings, for the CustomResourceDefinition and the reference;
`status` writes them. Nothing is required but the keys of lists, and no choice but a
condition's is listed, so that no operator's status is ever refused. Forbidden: code.
"""

from __future__ import annotations

from typing import Final

from dynamo_operator.field_types import (
    Boolean,
    Choice,
    FieldType,
    Group,
    Integer,
    Items,
    Text,
    Texts,
    Time,
)

_CONDITION: Final[dict[str, FieldType]] = {
    "type": Text(
        "Available: a key can be read and written. Progressing: steps are under way. Degraded: "
        "something is missing that clients don't feel yet. Blocked: nothing goes on until a "
        "person acts. UpdateAvailable: the operator would build nodes in another way.",
        required=True,
    ),
    "status": Choice("Whether it is so.", "", None, ("True", "False", "Unknown")),
    "reason": Text("The reason in one word, for tools."),
    "message": Text("The reason, and what to do, for people."),
    "observedGeneration": Integer("The metadata.generation that it is about."),
    "lastTransitionTime": Time("When its status changed last."),
}

_NODE: Final[dict[str, FieldType]] = {
    "name": Text("Name of the node, which is its pod's.", required=True),
    "pool": Text("Its pool."),
    "zone": Text('Its zone; "" without zones.'),
    "state": Text("starting, joining, up, suspect, down, recovering, leaving or left."),
    "capacity": Text("Its capacity in the ring, a decimal."),
    "tokens": Integer("Partitions that the ring gives it, by all replicas."),
    "ownershipPercent": Text("Its share of all tokens in percent, a decimal."),
    "hintsPending": Integer("Hints that it keeps for other nodes."),
    "incarnation": Text("Its present incarnation; a person who gives it up names it."),
}

STATUS: Final = Group(
    "What the operator has seen. Written by the operator alone.",
    {
        "observedGeneration": Integer("The metadata.generation of the spec that this is about."),
        "replicas": Integer("Nodes of the default pool."),
        "readyReplicas": Integer("Nodes of the default pool that are ready."),
        "selector": Text("Labels of the default pool's pods, for `scale` and autoscalers."),
        "nodesTotal": Integer("Nodes of all pools."),
        "nodesReady": Integer("Nodes of all pools that are ready."),
        "conditions": Items(
            "How it stands, for people and tools.", "", _CONDITION, key="type", listed=False
        ),
        "ring": Group(
            "The decided ring.",
            {
                "epoch": Integer("Its number; each change of members makes a higher one."),
                "settled": Boolean("Whether all data lies where it says."),
                "imbalance": Text(
                    "How far the fullest node is above its share, a decimal: 0.03 is 3 percent."
                ),
                "zonesDistinct": Integer(
                    "Distinct zones of the replicas of the key with the fewest; 0 without zones."
                ),
            },
        ),
        "nodes": Items("The nodes, one by one.", "", _NODE, key="name", listed=False),
        "operation": Group(
            "What is being done; absent when idle.",
            {
                "kind": Text("What it is, in one word."),
                "node": Text("The node that it is about."),
                "step": Text("The step that is due, for people."),
                "bytesDone": Integer("Bytes that have moved."),
                "bytesTotal": Integer("Bytes to move in all, an estimate."),
                "bytesPerSecond": Integer("How fast they move."),
                "etaSeconds": Integer("How long the rest takes at that pace."),
                "stalled": Boolean("Whether it stands still; `step` says who, and why."),
                "trace": Group(
                    "Where it can be followed, if the operator sends spans.",
                    {
                        "traceparent": Text(
                            "W3C's name of its root span; the 32 digits are the trace's id."
                        ),
                        "startedAt": Time("When it began: with the edit, if one began it."),
                        "generation": Integer("The metadata.generation that it carries out."),
                        "kind": Text("What it is as a whole, in one word."),
                    },
                ),
            },
        ),
        "plan": Texts("With dryRun: the exact next steps, in order."),
    },
)
