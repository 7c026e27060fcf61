"""What all commands share at the terminal: options, output, exit codes.

Owns the rule that results go to stdout and everything else to stderr.
Forbidden here: imports that cost time, and any command.
"""

import json
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click

from dynamo_client.errors import (
    BadRequest,
    Denied,
    NoSingleValue,
    TooLarge,
    TooManySiblings,
)
from dynamo_core.errors import CallerError, DynamoError

if TYPE_CHECKING:
    from dynamo_client.client import DynamoClient, Protocol

DEFAULT_URL = "http://127.0.0.1:8100"
ANSWER_IS_NO = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130  # as shells say it for Ctrl-C

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_STATE_COLOURS = {
    "up": "green",
    "joining": "cyan",
    "leaving": "cyan",
    "recovering": "yellow",
    "suspect": "yellow",
    "down": "red",
}


def url_option(command: F) -> F:
    """--url, one address or several separated by commas."""
    return click.option(
        "--url",
        envvar="DYNAMO_URL",
        default=DEFAULT_URL,
        show_default=True,
        metavar="URL[,URL]",
        help="Any node's address, or several (also DYNAMO_URL).",
    )(command)


def timeout_option(command: F) -> F:
    """--timeout-ms, for a whole call with all its tries."""
    return click.option(
        "--timeout-ms",
        type=click.IntRange(1),
        default=5_000,
        show_default=True,
        help="How long a request may take.",
    )(command)


def protocol_option(default: "Protocol") -> Callable[[F], F]:
    """--protocol; a single request needs less time over HTTP than to find the owners."""
    return click.option(
        "--protocol",
        type=click.Choice(["auto", "native", "http"]),
        default=default,
        show_default=True,
        help="native goes straight to a key's replicas; auto takes HTTP where it can't.",
    )


def json_option(command: F) -> F:
    """--json, passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Output for programs.")(command)


def admin_token_option(command: F) -> F:
    """--admin-token, for the nodes' admin port."""
    return click.option(
        "--admin-token",
        envvar="DYNAMO_ADMIN_TOKEN",
        default="",
        metavar="TOKEN",
        help="Token of the admin port (also DYNAMO_ADMIN_TOKEN).",
    )(command)


def connect(
    url: str,
    timeout_ms: int,
    *,
    protocol: "Protocol" = "http",
    discover: bool = False,
    r: int | None = None,
    w: int | None = None,
) -> "DynamoClient":
    """A client for the --url of a command. A single request needs no view of the cluster."""
    from dynamo_client.client import DynamoClient

    discover = discover or protocol != "http"

    urls = [part for part in url.split(",") if part.strip()]
    return DynamoClient(urls, timeout_ms=timeout_ms, r=r, w=w, discover=discover, protocol=protocol)


class Cluster(NamedTuple):
    """The cluster that a command is about, and the way to it."""

    url: str
    timeout_ms: int
    protocol: "Protocol"

    def connect(
        self, *, discover: bool = False, r: int | None = None, w: int | None = None
    ) -> "DynamoClient":
        """`connect`, as the options say."""
        return connect(
            self.url, self.timeout_ms, protocol=self.protocol, discover=discover, r=r, w=w
        )


def cluster_options(protocol: "Protocol") -> Callable[[F], F]:
    """--url, --timeout-ms and --protocol, passed as `cluster`; and --json, as `as_json`."""

    def decorate(command: F) -> F:
        @wraps(command)
        def called(*args: Any, url: str, timeout_ms: int, protocol: "Protocol", **more: Any) -> Any:
            return command(*args, cluster=Cluster(url, timeout_ms, protocol), **more)

        return json_option(protocol_option(protocol)(timeout_option(url_option(cast(F, called)))))

    return decorate


def run(work: Coroutine[Any, Any, T], *, fast: bool = False) -> T:
    """Run to the end; `fast` takes uvloop where it is installed (worth its import only then)."""
    import asyncio

    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if fast:
        try:
            from uvloop import new_event_loop
        except ImportError:
            pass
        else:
            factory = new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def complain(message: str) -> None:
    """One line on stderr."""
    click.echo(f"dynamo: {message}", err=True)


def note(message: str) -> None:
    """A line on stderr that is no complaint."""
    click.echo(message, err=True)


def exit_code(error: DynamoError) -> int:
    """0 done, 1 the answer is no, 2 usage, 3 cluster unreachable or quorum not met."""
    if isinstance(error, (NoSingleValue, TooManySiblings)):
        return ANSWER_IS_NO
    if isinstance(error, (CallerError, BadRequest, Denied, TooLarge)):
        return USAGE
    return UNREACHABLE


def print_json(document: object) -> None:
    """One JSON document on stdout, indented for a person who looks at it."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(document, ensure_ascii=False, indent=indent))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns aligned by spaces, one row a line, as kubectl does: fit for eyes and for awk.

    A column whose cells are all numbers is aligned to the right.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[at]) for row in cells)]) for at, name in enumerate(columns)]
    right = [
        bool(cells) and all(row[at].rstrip("%").replace(".", "").isdigit() for row in cells)
        for at in range(len(columns))
    ]

    def line(row: Sequence[str]) -> list[str]:
        return [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]

    click.secho("   ".join(line([name.upper() for name in columns])).rstrip(), bold=True)
    for row in cells:
        padded = line(row)
        padded[-1] = padded[-1].rstrip()
        for at, name in enumerate(columns):
            if name == "state" and row[at] in _STATE_COLOURS:
                padded[at] = click.style(padded[at], fg=_STATE_COLOURS[row[at]])
        click.echo("   ".join(padded))


def percent(share: object) -> str:
    """A share of 0..1, given as number or decimal string, for people."""
    try:
        return f"{float(str(share)) * 100:.1f}%"
    except ValueError:
        return str(share)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
