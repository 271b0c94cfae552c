"""The command `machine`: copy a machine of the library from one engine to another."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable

import click
import msgspec

from syncline.cli.exits import failure_of
from syncline.cli.output import print_json, print_line
from syncline.errors import SynclineError
from syncline.machines.copying import copy_machine
from syncline.node.fsm import FSM
from syncline.node.machine import check_machine

__all__ = ["machine"]


@click.group("machine", short_help="Copy a state machine from one engine to another.")
def machine() -> None:
    """Copy a state machine of the library from one engine to another."""


@machine.command("copy", short_help="Copy the state of a machine, with its sessions, to an empty log.")
@click.argument("source")
@click.argument("target")
@click.option("--machine", "name", required=True, metavar="MODULE:CLASS", help="The class of the machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def copy(source: str, target: str, name: str, as_json: bool) -> None:
    """Copy the state of a machine from the engine SOURCE to the engine TARGET, both as URLs.

    Stop all programs that write to the source first. The log of the target must be empty. See docs/engines.md.

    Example: syncline machine copy raft:cluster.toml etcd://10.0.0.1:2379/jobs --machine jobs:Jobs
    """
    make = _class_of(name)
    try:
        copied = asyncio.run(copy_machine(source, target, make))
    except SynclineError as error:
        raise failure_of(error, as_json=as_json) from error
    if as_json:
        print_json(msgspec.to_builtins(copied))
        return
    print_line(f"copied the state at entry {copied.index}: {copied.size_bytes} bytes")


def _class_of(name: str) -> Callable[[], FSM[object]]:
    """The class `MODULE:CLASS`, from the working directory too. It is a state machine without arguments."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise click.BadParameter(f"{name!r}: write MODULE:CLASS, such as jobs:Jobs", param_hint="--machine")
    sys.path.insert(0, os.getcwd())
    try:
        found: object = getattr(importlib.import_module(module), attribute)
        made = found() if callable(found) else found
        check_machine(made)  # type: ignore[arg-type]  # that is what is checked
    except Exception as error:
        raise click.BadParameter(f"{name}: {type(error).__name__}: {error}", param_hint="--machine") from error
    return found  # type: ignore[return-value]  # checked by what it has made
