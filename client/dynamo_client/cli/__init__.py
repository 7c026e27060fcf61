"""The `dynamo` command (also installed as `kubectl-dynamo`).

Owns the group, which command lives where, and exit codes: 0 done, 1 the answer
is no, 2 usage, 3 cluster unreachable or quorum not met. Forbidden here: imports
that cost time (aiohttp, rich); a command's module is loaded when it is called,
and loads what it needs when it runs.
"""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.metadata import entry_points

import click

from dynamo_client.cli.terminal import INTERRUPTED, complain, exit_code
from dynamo_core.errors import DynamoError

# name -> (module, attribute, what `dynamo --help` says)
_OWN = {
    "get": ("kv", "get", "Print the value of KEY."),
    "put": ("kv", "put", "Write VALUE under KEY."),
    "delete": ("kv", "delete", "Delete KEY."),
    "import": ("load", "load", "Write the records of a JSON lines file."),
    "export": ("dump", "dump", "Write every key as JSON lines."),
    "bench": ("bench", "bench", "Load the store and measure it."),
    "verify": ("verify", "verify", "Check that the cluster keeps its promises."),
    "status": ("overview", "status", "Show the nodes and the ring's state."),
    "ring": ("overview", "ring", "Show who owns what."),
    "transfers": ("transfers", "transfers", "Show what moves between nodes."),
}
# Commands of other packages, found by entry point: name -> (extra, help), so
# that one that isn't installed can say how to get it.
_KNOWN_ELSEWHERE = {"local": ("operator", "Run a whole cluster on this machine.")}
_ENTRY_POINTS = "dynamo.commands"
_ORDER = ("local", *_OWN)


def _spans() -> AbstractContextManager[None]:
    """Spans of the command, where OpenTelemetry's variables ask for them."""
    if not any(name.startswith("OTEL_EXPORTER_OTLP_") for name in os.environ):
        return nullcontext()
    from dynamo_client.cli.telling import spans

    return spans()


class _Commands(click.Group):
    """Loads a command when it is called, and turns the store's errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        others = {entry.name for entry in entry_points(group=_ENTRY_POINTS)}
        return [*_ORDER, *sorted(others - set(_ORDER))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OWN:
            module, attribute, _ = _OWN[cmd_name]
            loaded = getattr(import_module(f"{__name__}.{module}"), attribute)
            return loaded if isinstance(loaded, click.Command) else None
        return _elsewhere(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            close = [name for name in self.list_commands(ctx) if name.startswith(args[0][:2])]
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in _OWN:
                rows.append((name, _OWN[name][2]))
            elif name in _KNOWN_ELSEWHERE:
                rows.append((name, _KNOWN_ELSEWHERE[name][1]))
            else:
                command = self.get_command(ctx, name)
                rows.append((name, command.get_short_help_str(60) if command else ""))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        try:
            with _spans():
                result: object = super().invoke(ctx)
        except DynamoError as error:
            complain(str(error))
            ctx.exit(exit_code(error))
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("aiohttp", "rich", "yarl"):
                raise
            complain(
                f"{error.name} is missing; install it with: pip install 'dynamo-store[client]'"
            )
            ctx.exit(2)
        return result


def _elsewhere(name: str) -> click.Command | None:
    """A command of another package; None if nobody offers it."""
    for entry in entry_points(group=_ENTRY_POINTS, name=name):
        try:
            loaded = entry.load()
        except Exception as error:  # whatever is broken over there must not hide the reason
            return _not_installed(name, f" ({error})")
        if isinstance(loaded, click.Command):
            return loaded
        return _not_installed(name, f" ({entry.value} is not a command)")
    return _not_installed(name, "") if name in _KNOWN_ELSEWHERE else None


def _not_installed(name: str, why: str) -> click.Command:
    extra = _KNOWN_ELSEWHERE.get(name, (name, ""))[0]

    @click.command(
        name,
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
        add_help_option=False,
    )
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def stub(rest: tuple[str, ...]) -> None:
        raise click.UsageError(
            f"`dynamo {name}` can't be loaded{why}; "
            f"it comes with: pip install 'dynamo-store[{extra}]'"
        )

    return stub


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="dynamo-store", prog_name="dynamo")
def dynamo() -> None:
    """An always-writable key-value store, from the command line.

    Every command takes --url (or DYNAMO_URL), the address of any node.
    """


def main() -> None:
    """Entry point of `dynamo` and `kubectl-dynamo`."""
    name = os.path.basename(sys.argv[0]) or "dynamo"
    shown = "kubectl dynamo" if name.startswith("kubectl") else "dynamo"
    try:
        code = dynamo.main(prog_name=shown, standalone_mode=False)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = 2
    except BrokenPipeError:
        # Who read our output has left; nothing may be flushed to them at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
    except Exception as error:
        if os.environ.get("DYNAMO_DEBUG"):
            raise
        complain(f"{type(error).__name__}: {error} (DYNAMO_DEBUG=1 shows where)")
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
