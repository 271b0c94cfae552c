"""Copy a machine from one engine to another, each named by its URL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.engines.backend import BackendLost
from syncline.engines.backends import make_backend
from syncline.engines.protocol import Engine
from syncline.engines.transfer import MachineState, export_state, import_into_log, import_into_raft
from syncline.engines.urls import RAFT
from syncline.errors import ConfigError, Outcome, StorageError, Unreachable
from syncline.machines.opening import open  # noqa: A004 - its public name
from syncline.node.fsm import FSM
from syncline.platform.world import World

__all__ = ["MachineCopy", "copy_machine"]

WRITE_S: Final = 120.0


class MachineCopy(msgspec.Struct, frozen=True):
    """What was copied."""

    index: int
    """The index of the last entry in the state."""
    size_bytes: int


async def copy_machine(source: str, target: str, make: Callable[[], FSM[object]]) -> MachineCopy:
    """Copy the state of a machine, with its sessions, to an engine where its log is empty.

        await copy_machine("raft:cluster.toml", "etcd://10.0.0.1:2379/jobs", Jobs)

    Stop all programs that write to the source first; the copy fails if the state changes meanwhile. `make` makes an
    empty machine. A cluster of Raft can't take sessions: they end there.

    Raises:
        ConfigError: a URL can't be used, or the target is not empty. Nothing was written.
        StorageError: the source has changed meanwhile, or the state is too large for the target.
        Unreachable: an engine is not reached.
        NodeFailed, OperationError: the target is of another machine; or as `syncline.open` and its operations do.
    """
    if source == target:
        raise ConfigError("the source and the target are the same")
    machine = make()
    async with open(source, machine) as engine:
        state = await export_state(engine, machine)
        await _write(target, make, state)
        await _check_unchanged(engine, machine, state, target)
    return MachineCopy(state.index, len(state.data))


async def _write(target: str, make: Callable[[], FSM[object]], state: MachineState) -> None:
    if target.startswith(RAFT):
        machine = make()
        async with open(target, machine) as engine:
            await import_into_raft(engine, machine, state)
        return
    backend = make_backend(target, World().rng)
    try:
        async with asyncio.timeout(WRITE_S):
            await import_into_log(backend, state, fsm=make())
    except (BackendLost, TimeoutError) as error:
        text = f"{backend.name} was not reached until the end of the copy: {error}. Start again with an empty log"
        raise Unreachable(text, outcome=Outcome.UNKNOWN) from error
    finally:
        await backend.close()


async def _check_unchanged(engine: Engine[object], machine: FSM[object], state: MachineState, target: str) -> None:
    now = await export_state(engine, machine)
    if (now.sessions, now.data) != (state.sessions, state.data):
        raise StorageError(
            f"the machine has changed while it was copied: {target} does not have the last commands. Stop all programs"
            " that write to the source, and copy again into an empty log"
        )
