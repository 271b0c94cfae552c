"""The `syncline` command: its parts are imported when they are called, so that it starts fast in shell loops."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final

import click

from syncline.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, Failure, failure_of, one_line
from syncline.cli.log_lines import keep_standard_descriptors
from syncline.cli.streams import say, silence
from syncline.errors import SynclineError
from syncline.version import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["cli", "main"]

DEBUG_VARIABLE: Final = "SYNCLINE_DEBUG"
"""Set it to see the traceback of an unexpected error."""

OUTPUT_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})
"""Of a write to the standard output."""

_COMMANDS: Final = {
    "up": ("syncline.cli.up.command:up", "Start a cluster on this machine."),
    "down": ("syncline.cli.down:down", "Stop the cluster that 'up' keeps running."),
    "logs": ("syncline.cli.logs:logs", "Show what the nodes of 'up' have logged."),
    "serve": ("syncline.cli.serve.command:serve", "Run one node."),
    "status": ("syncline.cli.cluster:status", "Show every member and its state."),
    "health": ("syncline.cli.health:health", "Tell by the exit status how the cluster is."),
    "get": ("syncline.cli.keys:get", "Print a key's value."),
    "put": ("syncline.cli.keys:put", "Write a key."),
    "del": ("syncline.cli.keys:delete", "Delete a key."),
    "list": ("syncline.cli.keys:list_keys", "List keys in order."),
    "watch": ("syncline.cli.watch:watch", "Print what changes, as it happens."),
    "incr": ("syncline.cli.operations:increment", "Add to the number that is a key's value."),
    "txn": ("syncline.cli.operations:txn", "Carry out a transaction that stands on standard input."),
    "lease": ("syncline.cli.leases:lease", "Grant, keep alive, show or end leases."),
    "touch": ("syncline.cli.leases:touch", "Give a key a time to live."),
    "run": ("syncline.cli.run.command:run", "Run a command under a lock, as the leader, or once."),
    "lock": ("syncline.cli.holds:lock", "Hold a lock until the input ends."),
    "elect": ("syncline.cli.holds:elect", "Campaign for a leadership, or follow the leader."),
    "discover": ("syncline.cli.discover:discover", "List the instances of a service."),
    "compact": ("syncline.cli.operations:compact", "Give up old revisions."),
    "import": (
        "syncline.cli.import_export.command:import_tree",
        "Store a directory's files, or the keys of etcd.",
    ),
    "export": ("syncline.cli.import_export.command:export_tree", "Write keys to a directory, or to etcd."),
    "member": ("syncline.cli.cluster:member", "List, add, remove or promote members."),
    "upgrade": ("syncline.cli.upgrade:upgrade", "Show, hold or finalize the cluster's levels."),
    "transfer": ("syncline.cli.cluster:transfer", "Transfer the leadership to another node."),
    "certs": ("syncline.cli.certs:certs", "Make certificates for TLS."),
    "user": ("syncline.cli.users:user", "Add, list and remove users, and make tokens."),
    "role": ("syncline.cli.users:role", "Add roles, and say what they allow."),
    "auth": ("syncline.cli.users:auth", "Require credentials from clients, or not."),
    "secret": ("syncline.cli.secret:secret", "Make a cluster secret."),
    "snapshot": ("syncline.cli.files.snapshot:snapshot", "Have a node write a snapshot now, or look at those on disk."),
    "wal": ("syncline.cli.files.wal:wal", "Look at a node's log on disk, or check it."),
    "repair": ("syncline.cli.repair.command:repair", "Replace a node whose data directory is damaged."),
    "backup": (
        "syncline.cli.backup.command:backup",
        "Save the state of a cluster, check a backup, begin a new cluster from one.",
    ),
    "doctor": ("syncline.cli.doctor.command:doctor", "Check this machine for a node."),
    "debug": ("syncline.cli.debug.command:debug", "Make a bundle for a bug report, without secrets."),
    "bench": ("syncline.cli.bench.command:bench", "Measure what to expect of this machine, or of a cluster."),
    "top": ("syncline.cli.top.command:top", "Show what the nodes do, live: rates, latency, lag."),
    "shell": ("syncline.cli.shell.command:shell", "Type commands one after the other, with history and completion."),
    "completion": (
        "syncline.cli.completion:completion",
        "Print the script by which a shell completes commands and keys.",
    ),
    "machine": ("syncline.cli.machine:machine", "Copy a state machine from one engine to another."),
    "recover": ("syncline.cli.recover.command:recover", "After a lost quorum, start a new cluster from one node."),
}

_ALIASES: Final = {"ls": "list", "set": "put", "rm": "del", "delete": "del"}
"""Names that other tools use for a command. `--help` does not list them."""

SIMILAR: Final = 0.6
"""How alike a mistyped command must be to be suggested (`difflib`'s ratio)."""

_EPILOG: Final = (
    "Exit status: 0 done; 1 failed; 2 wrong usage or configuration; 3 not found; 4 unavailable, nothing changed; "
    "5 outcome unknown, it may take effect; 6 a condition did not hold; 7 the data directory needs 'syncline repair'; "
    "130 interrupted."
)


class _NamingContext(click.Context):
    """A context that usage errors name: those of click's parser, such as a missing argument of an option, name none."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if isinstance(error, click.UsageError) and error.ctx is None:
            error.ctx = self
        return super().__exit__(kind, error, trace)


def _naming(command: click.Command) -> click.Command:
    """The command, with all below it, whose usage errors name it."""
    command.context_class = _NamingContext
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _naming(below)
    return command


class _LazyGroup(click.Group):
    """A group whose commands are imported when one of them is called; their one-line help is kept here."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        entry = _COMMANDS.get(_ALIASES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        module, _, name = entry[0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return _naming(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"No such command {args[0]!r}{_suggestion(args[0])}", ctx) from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, without importing them."""
        from click.shell_completion import CompletionItem

        items = [
            CompletionItem(name, help=text) for name, (_, text) in _COMMANDS.items() if name.startswith(incomplete)
        ]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in _COMMANDS.items()])


@click.group(
    cls=_LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="syncline %(version)s")
@click.option("--endpoints", metavar="URL,…", help="Any of the cluster's servers, for commands that talk to one.")
def cli(endpoints: str | None) -> None:
    """Syncline keeps data in sync across machines: a replicated, strongly consistent key-value server."""


def _suggestion(mistyped: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(mistyped, [*_COMMANDS, *_ALIASES], n=1, cutoff=SIMILAR)
    return f"; did you mean {close[0]!r}?" if close else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Every error ends as one line on the error output and an exit status, never as a traceback."""
    keep_standard_descriptors()
    if not __debug__ and arguments is None:
        _run_with_checks()
    as_json = _asks_for_json(sys.argv[1:] if arguments is None else arguments)
    status = _status_of(arguments, as_json=as_json)
    try:
        sys.stdout.flush()  # what a command printed before it failed: at exit, the interpreter would print a traceback
    except OSError as error:
        _give_up_output()
        if not isinstance(error, BrokenPipeError):
            say(Failure(_told(error), EXIT_FAILED, as_json=as_json).line)
        return status or EXIT_FAILED
    return status


def _status_of(arguments: Sequence[str] | None, *, as_json: bool) -> int:
    """Run the command, and print the line of an error. Returns the exit status."""
    try:
        cli.main(args=arguments, prog_name="syncline", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except Failure as failure:
        if failure.line:
            say(failure.line)
        return failure.status
    except click.exceptions.NoArgsIsHelpError as asking:
        say(asking.format_message())
        return EXIT_USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "syncline"
        say(Failure(f"{error.format_message()} (see '{where} --help')", EXIT_USAGE, code="usage", as_json=as_json).line)
        return EXIT_USAGE
    except click.ClickException as error:
        say(Failure(error.format_message(), error.exit_code, as_json=as_json).line)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        say("syncline: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _give_up_output()
        return EXIT_FAILED
    except SynclineError as error:  # before `OSError`, which some of them are
        ended = failure_of(error, as_json=as_json)
        say(ended.line)
        return ended.status
    except OSError as error:
        say(Failure(_told(error), EXIT_FAILED, as_json=as_json).line)
        return EXIT_FAILED
    except Exception as error:  # the last resort: users get one line, developers ask for more
        if os.environ.get(DEBUG_VARIABLE):
            raise
        kind = type(error).__name__
        say(f"syncline: internal error: {kind}: {one_line(str(error))} (set {DEBUG_VARIABLE}=1 for the traceback)")
        return EXIT_FAILED
    return 0


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` is among the options, for errors that come before the options are read."""
    options = list(arguments)
    return "--json" in (options[: options.index("--")] if "--" in options else options)


def _run_with_checks() -> None:
    """Start this process again without `python -O`, which leaves out the assertions that a node needs."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}
    command = [sys.executable, "-P", "-m", "syncline", *sys.argv[1:]]
    os.execve(sys.executable, command, environment)  # noqa: S606 - the very program that runs, with its own arguments


def _told(error: OSError) -> str:
    """The text of an error of the system. One of a file names it, one of the network was translated before."""
    if error.filename is None and error.errno in OUTPUT_ERRORS:
        _give_up_output()
        return f"the output can't be written: {error.strerror}"
    return str(error)


def _give_up_output() -> None:
    """Keep the interpreter from complaining about the output when it flushes at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
