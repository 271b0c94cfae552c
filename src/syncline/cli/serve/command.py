"""The command `serve`: run one node until a signal stops it."""

from __future__ import annotations

import asyncio
import os
from typing import Final

import click

from syncline.cli.exits import EXIT_DAMAGED, EXIT_FAILED, Failure, failure_of
from syncline.cli.serve.help import help_of
from syncline.errors import CorruptionError, NodeFailed, RepairNeeded, SynclineError
from syncline.node.settings.declare import flag_of
from syncline.server.config import SERVER_SETTINGS, load_config

__all__ = ["serve"]

_FLAGS: Final = tuple(name for name in SERVER_SETTINGS if name != "peer_secret")
"""A secret on the command line would be seen by every user of the machine."""

_SWITCHES: Final = frozenset({"insecure_peers", "insecure_clients", "insecure"})
"""Flags without a value."""


def _setting_options(command: click.Command) -> click.Command:
    """A flag for every setting."""
    for name in _FLAGS:
        flag, told = flag_of(name), help_of(name)
        if name in _SWITCHES:
            option = click.Option([flag, name], help=told, flag_value="true", default=None)
        else:
            option = click.Option([flag, name], help=told, metavar="VALUE")
        command.params.append(option)
    return command


@click.command("serve", short_help="Run one node.")
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="Settings from a TOML file.")
@click.option(
    "--log-file", type=click.Path(dir_okay=False), help="Log to this file (rotated) instead of the error output."
)
@click.option("--parent-fd", type=int, hidden=True, help="Stop when the pipe at this descriptor is closed.")
@click.option("--lab-fd", type=int, hidden=True, help="Take the orders of the lab of 'syncline up' from this pipe.")
def serve(
    config_file: str | None,
    log_file: str | None,
    parent_fd: int | None,
    lab_fd: int | None,
    **settings: str | None,
) -> None:
    """Run one node of a cluster and serve HTTP, until SIGTERM or Ctrl-C.

    Every setting is a flag, an environment variable (SYNCLINE_DATA_DIR) or an entry of the --config file (data_dir),
    in this order of precedence. A node that has run before needs no --initial-cluster or --join: its data directory
    knows where it belongs.
    """
    try:
        config = load_config(file=config_file, environment=os.environ, flags=settings)
    except SynclineError as error:
        raise failure_of(error) from error
    from syncline.cli.serve.process import run_node

    try:
        run_node(config, log_file=log_file, parent_fd=parent_fd, lab_fd=lab_fd)
    except NodeFailed as error:
        damaged = isinstance(error.__cause__, CorruptionError | RepairNeeded)
        status = EXIT_DAMAGED if damaged else EXIT_FAILED
        raise Failure(f"node {config.name} stopped itself: {error}", status) from error
    except SynclineError as error:
        raise failure_of(error) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Failure(f"node {config.name}: {where}{error.strerror or error}", EXIT_FAILED) from error
    except asyncio.CancelledError as error:
        raise Failure(f"node {config.name} was stopped before it was ready", EXIT_FAILED) from error


_setting_options(serve)
