"""`dynamo status` and `dynamo ring`: the cluster for a person's eyes.

Owns the tables. Forbidden here: changing anything.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from dynamo_client.cli.terminal import (
    admin_token_option,
    connect,
    json_option,
    note,
    percent,
    print_json,
    print_table,
    run,
    timeout_option,
    url_option,
)
from dynamo_client.errors import DynamoClientError
from dynamo_client.items import key_bytes, show_key

if TYPE_CHECKING:
    from dynamo_core.ring import Ring


@click.command("status", short_help="Show the nodes and the ring's state.")
@json_option
@timeout_option
@url_option
def status(url: str, timeout_ms: int, as_json: bool) -> None:
    """Show the nodes and the ring's state, as one node sees them."""
    view = run(cluster_view(url, timeout_ms))
    if as_json:
        print_json(view)
        return
    nodes = _nodes(view)
    print_table(
        ("name", "zone", "state", "capacity", "tokens", "owns", "keys", "hints", "http"),
        [
            (
                node.get("name"),
                node.get("zone"),
                node.get("state"),
                node.get("capacity"),
                node.get("tokens"),
                _share(node.get("ownership_percent")),
                node.get("keys"),
                _total(node.get("hints_pending")),
                node.get("http"),
            )
            for node in nodes
        ],
    )
    click.echo(f"\n{view.get('name', '?')}: {_states_line(nodes)}; {ring_line(view)}")
    moving = view.get("transfers")
    if isinstance(moving, list) and moving:
        verb = "transfer is" if len(moving) == 1 else "transfers are"
        click.echo(f"{len(moving)} {verb} under way: `dynamo transfers` shows them")


@click.command("ring", short_help="Show who owns what.")
@click.option("--partition", type=click.IntRange(0), help="Show a partition's preference list.")
@click.option("--key", help="Show the partition and the preference list of a key.")
@admin_token_option
@json_option
@timeout_option
@url_option
def ring(
    partition: int | None,
    key: str | None,
    admin_token: str,
    url: str,
    timeout_ms: int,
    as_json: bool,
) -> None:
    """Show the ring: its name, its balance, each node's tokens, and who shall hold a key.

    While partitions move a key is still with its former replicas, see `dynamo transfers`.

    The ring itself is on the nodes' admin port; where that can't be reached, what
    every node tells its clients is shown.
    """
    if partition is not None and key is not None:
        raise click.UsageError("--partition and --key exclude each other")
    wanted = None if key is None else key_bytes(os.fsencode(key))

    async def ask() -> "tuple[dict[str, Any], Ring | None]":
        view = await cluster_view(url, timeout_ms)
        from dynamo_client.cli.admin import Admin

        async with Admin(view, admin_token) as admin:
            try:
                return view, await admin.ring()
            except DynamoClientError as error:
                if partition is not None or wanted is not None:
                    raise
                note(f"the ring itself can't be had from an admin port ({error})")
                return view, None

    view, found = run(ask())
    place = _place(found, partition, wanted)
    if place:
        place["moving"] = _moving(view, place["partition"])
    if as_json:
        print_json({**_ring_document(view, found), **place})
        return
    if place:
        _print_place(view, place)
        return
    print_table(
        ("number", "name", "zone", "state", "capacity", "tokens", "owns"),
        [
            (
                node["number"],
                node["name"],
                node["zone"],
                node["state"],
                node["capacity"],
                node["tokens"],
                _share(node["ownership_percent"]),
            )
            for node in _ring_document(view, found)["nodes"]
        ],
    )
    click.echo(f"\n{view.get('name', '?')}: {ring_line(view)}")
    if found is not None:
        click.echo(f"id {found.id}, parent {found.parent or 'none'}")


async def cluster_view(url: str, timeout_ms: int) -> dict[str, Any]:
    """The cluster as one node sees it."""
    async with connect(url, timeout_ms) as kv:
        return await kv.cluster()


def _place(found: "Ring | None", partition: int | None, key: bytes | None) -> dict[str, Any]:
    """Where a partition or a key lives; {} if neither was asked for."""
    from dynamo_core.ring import position

    if found is None or (partition is None and key is None):
        return {}
    place: dict[str, Any] = {}
    if key is not None:
        digest = position(key)
        partition = found.partition_of(digest)
        place |= {"key": show_key(key), "position": digest.hex()}
    assert partition is not None
    if partition >= found.partitions:
        raise click.UsageError(
            f"--partition is {partition}; this ring has partitions 0..{found.partitions - 1}"
        )
    names = [found.member(number).name for number in found.preference_list(partition)]
    return place | {
        "partition": partition,
        "token_owner": found.member(found.owners[partition]).name,
        "preference_list": names,
        "replicas": names[: len(found.slots[partition])],
    }


def _print_place(view: Mapping[str, Any], place: Mapping[str, Any]) -> None:
    by_name = {node.get("name"): node for node in _nodes(view)}
    if "key" in place:
        click.echo(f"key {place['key']}, position {place['position']}")
    click.echo(f"partition {place['partition']}, token owned by {place['token_owner']}\n")
    replicas = place["replicas"]
    print_table(
        ("order", "name", "role", "zone", "state"),
        [
            (
                order,
                name,
                "replica" if name in replicas else "stand-in",
                by_name.get(name, {}).get("zone"),
                by_name.get(name, {}).get("state"),
            )
            for order, name in enumerate(place["preference_list"], 1)
        ],
    )
    for move in place["moving"]:
        click.echo(f"\n{move.get('to')} takes it over from {move.get('from')}: {move.get('state')}")


def _ring_document(view: Mapping[str, Any], found: "Ring | None") -> dict[str, Any]:
    seen = view.get("ring")
    document: dict[str, Any] = {"cluster": view.get("name")} | (
        dict(seen) if isinstance(seen, dict) else {}
    )
    states = {node.get("name"): node for node in _nodes(view)}
    if found is None:
        wanted = ("name", "zone", "state", "capacity", "tokens", "ownership_percent")
        nodes = [
            {"number": None} | {name: node.get(name) for name in wanted} for node in _nodes(view)
        ]
        return document | {"nodes": nodes}
    nodes = [
        {
            "number": member.number,
            "name": member.name,
            "zone": member.zone,
            "state": states.get(member.name, {}).get("state"),
            "capacity": member.capacity,
            "tokens": found.tokens(member.number),
            "ownership_percent": round(found.ownership(member.number) * 100, 2),
        }
        for member in found.everybody
    ]
    return document | {
        "epoch": found.epoch,
        "id": found.id,
        "parent": found.parent,
        "partitions": found.partitions,
        "n": found.replication,
        "nodes": nodes,
    }


def ring_line(view: Mapping[str, Any]) -> str:
    """The ring of a view in one line."""
    seen = view.get("ring")
    if not isinstance(seen, dict):
        return "no ring yet"
    settled = "settled" if seen.get("settled") else "moving"
    zones = seen.get("zones_distinct")
    return (
        f"ring epoch {seen.get('epoch')} ({settled}), {seen.get('partitions')} partitions, "
        f"{seen.get('n')} replicas each, imbalance {percent(seen.get('imbalance'))}"
        + (f", at least {zones} zones" if zones else "")
    )


def _states_line(nodes: Sequence[Mapping[str, Any]]) -> str:
    """How many nodes are up, and what else some of them do."""
    states = Counter(str(node.get("state")) for node in nodes)
    up = states.pop("up", 0)
    others = [f"{count} {state}" for state, count in sorted(states.items())]
    return ", ".join([f"{up} of {len(nodes)} nodes up", *others])


def _moving(view: Mapping[str, Any], partition: int) -> list[Mapping[str, Any]]:
    """The transfers of one partition."""
    moving = view.get("transfers")
    listed = moving if isinstance(moving, list) else []
    return [
        each for each in listed if isinstance(each, dict) and each.get("partition") == partition
    ]


def _nodes(view: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    nodes = view.get("nodes")
    return [node for node in nodes if isinstance(node, dict)] if isinstance(nodes, list) else []


def _share(value: object) -> str:
    try:
        return f"{float(str(value)):.1f}%"
    except ValueError:
        return "-"


def _total(hints: object) -> object:
    return sum(hints.values()) if isinstance(hints, dict) else hints
