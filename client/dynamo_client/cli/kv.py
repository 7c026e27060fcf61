"""`dynamo get`, `put` and `delete`: one key at a time.

Owns how values and siblings are shown, and the read before a write. Forbidden
here: HTTP; everything goes through the client.
"""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import click

from dynamo_client.cli.records import as_text
from dynamo_client.cli.terminal import (
    ANSWER_IS_NO,
    Cluster,
    cluster_options,
    complain,
    note,
    print_json,
    run,
)
from dynamo_client.errors import Unavailable
from dynamo_client.items import OCTET_STREAM, Acks, Item, show_key

F = TypeVar("F", bound=Callable[..., object])

_QUORUM = click.IntRange(1)


def _options(command: F) -> F:
    verbose = click.option("-v", "--verbose", is_flag=True, help="Context and replicas, on stderr.")
    return verbose(cluster_options("http")(command))


@click.command("get", short_help="Print the value of KEY.")
@click.argument("key")
@click.option("--r", type=_QUORUM, help="Replicas that have to answer.")
@click.option("--context", help="A floor: the answer covers it (read your writes).")
@_options
def get(
    key: str,
    r: int | None,
    context: str | None,
    cluster: Cluster,
    as_json: bool,
    verbose: bool,
) -> None:
    """Print the value of KEY as it is stored.

    Concurrent versions (siblings) are all printed, a heading for each on
    stderr; programs take --json. Exit code 1 if there is no value.
    """
    raw = os.fsencode(key)

    async def ask() -> Item:
        async with cluster.connect(r=r) as kv:
            return await kv.get(raw, context=context)

    item = run(ask())
    if as_json:
        print_json(_item_document(item))
    else:
        _print_values(item)
    if verbose:
        _tell(item.context, item.acks)
    if not item.found:
        if not as_json:
            complain(f"the key {show_key(raw)} holds no value")
        raise click.exceptions.Exit(ANSWER_IS_NO)


@click.command("put", short_help="Write VALUE under KEY.")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--context", help="What the write replaces, from a read; else it reads first.")
@click.option("--blind", is_flag=True, help="Don't read: the value becomes a sibling.")
@click.option("--content-type", default=OCTET_STREAM, show_default=True)
@click.option("--r", type=_QUORUM, help="Replicas that have to answer the read.")
@click.option("--w", type=_QUORUM, help="Replicas that have to store it.")
@_options
def put(
    key: str,
    value: str | None,
    context: str | None,
    blind: bool,
    content_type: str,
    r: int | None,
    w: int | None,
    cluster: Cluster,
    as_json: bool,
    verbose: bool,
) -> None:
    """Write VALUE under KEY; `-` or no VALUE takes it from stdin, byte for byte.

    Without --context it reads KEY first and replaces what it saw. If that read
    meets no quorum it writes all the same, and both versions are kept.
    """
    if blind and context is not None:
        raise click.UsageError("--blind and --context exclude each other")
    raw = os.fsencode(key)
    data = _value(value)

    async def write() -> tuple[str | None, Acks, int]:
        async with cluster.connect(r=r, w=w) as kv:
            seen, replaced = context, 0
            if context is None and not blind:
                try:
                    item = await kv.get(raw)
                except Unavailable as error:
                    complain(
                        f"the read before the write failed ({error}); writing without a context, "
                        "so that an older value stays beside this one"
                    )
                else:
                    seen, replaced = item.context, len(item.siblings)
            done = await kv.put(raw, data, context=seen, content_type=content_type)
            return done.context, done.acks, replaced

    new_context, acks, replaced = run(write())
    if as_json:
        print_json({**as_text("key", raw), "context": new_context, "acks": _acks(acks)})
    if verbose:
        _tell(new_context, acks)
    if replaced > 1:
        note(f"replaced {replaced} siblings")


@click.command("delete", short_help="Delete KEY.")
@click.argument("key")
@click.option("--context", help="What is deleted, from a read; else it reads first.")
@click.option("--blind", is_flag=True, help="Leave the read to the node.")
@click.option("--r", type=_QUORUM, help="Replicas that have to answer the read.")
@click.option("--w", type=_QUORUM, help="Replicas that have to store it.")
@_options
def delete(
    key: str,
    context: str | None,
    blind: bool,
    r: int | None,
    w: int | None,
    cluster: Cluster,
    as_json: bool,
    verbose: bool,
) -> None:
    """Delete KEY: what --context covers, or else what a read finds now.

    Exit code 1 if there was nothing to delete.
    """
    if blind and context is not None:
        raise click.UsageError("--blind and --context exclude each other")
    raw = os.fsencode(key)

    async def remove() -> tuple[bool, str | None, Acks]:
        async with cluster.connect(r=r, w=w) as kv:
            seen = context
            if context is None and not blind:
                item = await kv.get(raw)
                if not item.found:
                    return False, item.context, item.acks
                seen = item.context
            done = await kv.delete(raw, context=seen)
            return done.found, done.context, done.acks

    found, new_context, acks = run(remove())
    if as_json:
        document = {"deleted": found, "context": new_context, "acks": _acks(acks)}
        print_json({**as_text("key", raw), **document})
    if verbose:
        _tell(new_context, acks)
    if not found:
        if not as_json:
            complain(f"the key {show_key(raw)} holds no value")
        raise click.exceptions.Exit(ANSWER_IS_NO)


def _value(argument: str | None) -> bytes:
    if argument is not None and argument != "-":
        return os.fsencode(argument)
    if argument is None and sys.stdin.isatty():
        raise click.UsageError("give VALUE, or - to take it from stdin")
    return sys.stdin.buffer.read()


def _print_values(item: Item) -> None:
    out = sys.stdout.buffer
    several = len(item.siblings) > 1
    if several:
        note(f"{len(item.siblings)} siblings (concurrent versions); a put replaces all it has read")
    for number, sibling in enumerate(item.siblings, 1):
        if several:
            about = (sibling.dot, sibling.written_at, sibling.content_type)
            note(f"--- {number}: {', '.join(part for part in about if part)}")
        out.write(sibling.value)
        if several or sys.stdout.isatty():
            out.write(b"\n")
        out.flush()


def _item_document(item: Item) -> dict[str, object]:
    return {
        **as_text("key", item.key),
        "found": item.found,
        "context": item.context,
        "siblings": [
            {
                **as_text("value", sibling.value),
                "content_type": sibling.content_type,
                "dot": sibling.dot,
                "written_at": sibling.written_at,
            }
            for sibling in item.siblings
        ],
        "acks": _acks(item.acks),
    }


def _acks(acks: Acks) -> dict[str, int]:
    return {"primary": acks.primary, "standin": acks.standin}


def _tell(context: str | None, acks: Acks) -> None:
    note(f"context: {context or '(none)'}")
    note(f"acks: primary={acks.primary}, standin={acks.standin}")
