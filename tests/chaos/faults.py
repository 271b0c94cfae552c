"""How each fault is done to a fleet, and undone.

A fault is a function that does it and returns what was done, in words, and how to undo it. Undoing may find anything:
another fault of the same phase may have killed the node meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from tests.chaos.fleet import ChaosNode, Fleet, ring
from tests.chaos.lan import Lan
from tests.chaos.membership import Operator
from tests.chaos.schedule import KINDS, Fault

__all__ = ["Done", "Stage", "Undo", "begin"]

Undo: TypeAlias = Callable[[], Awaitable[None]]
Picks: TypeAlias = tuple[float, float, float]
Done: TypeAlias = tuple[str, Undo]

AT_ONCE: Final = 0.5
"""How often a killed node is started again at once, not at the end of the phase."""
FLAP_S: Final = 0.3
LIVES_S: Final = (0.2, 1.5)
"""How long a node lives in a storm: it is killed while it reads its log, while it joins, and when it has just begun."""


class Stage:
    """What faults act on."""

    def __init__(self, fleet: Fleet, operator: Operator) -> None:
        self.fleet = fleet
        self.operator = operator

    @property
    def lan(self) -> Lan:
        assert self.fleet.lan is not None, "this fault needs a network of its own"
        return self.fleet.lan

    def one(self, pick: float) -> ChaosNode | None:
        """A node that is up and not about to stop, if any is."""
        up = [node for node in self.fleet.nodes if node.up and node.wanted]
        return up[int(pick * len(up))] if up else None

    async def leader_or_one(self, pick: float) -> ChaosNode | None:
        leader = await self.fleet.leader()
        return leader if leader is not None and leader.up and leader.wanted else self.one(pick)


async def begin(fault: Fault, stage: Stage) -> Done:
    """Do it."""
    return await _ACTIONS[fault.kind](stage, fault.picks)


async def _nothing() -> None:
    """Nothing to undo."""


NOBODY_UP: Final[Done] = ("nobody is up to be hit", _nothing)


# -- processes


async def _kill(stage: Stage, victims: Sequence[ChaosNode | None], *, at_once: bool) -> Done:
    dying = [node for node in victims if node is not None and node.running]
    if not dying:
        return NOBODY_UP
    for node in dying:
        node.send(signal.SIGKILL)  # all of them before anything is waited for
    for node in dying:
        node.kill()
    names = _names(dying)

    async def start() -> None:
        stage.fleet.start()

    if at_once:
        stage.fleet.start()
        return f"killed {names}, started again at once", start
    return f"killed {names}", start


async def _kill_one(stage: Stage, picks: Picks) -> Done:
    return await _kill(stage, [stage.one(picks[0])], at_once=picks[1] < AT_ONCE)


async def _kill_leader(stage: Stage, picks: Picks) -> Done:
    return await _kill(stage, [await stage.leader_or_one(picks[0])], at_once=picks[1] < AT_ONCE)


async def _kill_majority(stage: Stage, picks: Picks) -> Done:
    nodes = ring(stage.fleet.nodes, picks[0])
    return await _kill(stage, nodes[: len(nodes) // 2 + 1], at_once=picks[1] < AT_ONCE)


async def _kill_all(stage: Stage, picks: Picks) -> Done:
    return await _kill(stage, stage.fleet.nodes, at_once=picks[1] < AT_ONCE)


async def _storm(stage: Stage, picks: Picks) -> Done:
    node = ring(stage.fleet.nodes, picks[0])[0]
    rng = random.Random(picks[1])

    async def storming() -> None:
        while True:
            if node.running and not node.leaving:
                node.kill()
            stage.fleet.start()
            await asyncio.sleep(rng.uniform(*LIVES_S))

    task = asyncio.create_task(storming())

    async def over() -> None:
        task.cancel()
        await asyncio.wait([task])
        stage.fleet.start()

    return f"killed {node.label} again and again", over


async def _stop(stage: Stage, picks: Picks) -> Done:
    node = stage.one(picks[0])
    if node is None:
        return NOBODY_UP
    node.ask_to_stop()

    async def start() -> None:
        await node.stopped()
        stage.fleet.start()

    return f"told {node.label} to stop", start


async def _pause(node: ChaosNode | None) -> Done:
    if node is None:
        return NOBODY_UP
    node.pause()

    async def resume() -> None:
        node.resume()

    return f"stopped {node.label}", resume


async def _pause_one(stage: Stage, picks: Picks) -> Done:
    return await _pause(stage.one(picks[0]))


async def _pause_leader(stage: Stage, picks: Picks) -> Done:
    return await _pause(await stage.leader_or_one(picks[0]))


# -- network


def _cut(stage: Stage, pairs: Sequence[tuple[ChaosNode, ChaosNode]], what: str) -> Done:
    for sender, receiver in pairs:
        stage.lan.cut(sender.name, receiver.name)

    async def mend() -> None:
        for sender, receiver in pairs:
            stage.lan.mend(sender.name, receiver.name)

    return what, mend


def _between(left: Sequence[ChaosNode], right: Sequence[ChaosNode]) -> list[tuple[ChaosNode, ChaosNode]]:
    """Both ways of every pair."""
    return [way for one in left for other in right for way in ((one, other), (other, one))]


async def _partition(stage: Stage, picks: Picks) -> Done:
    nodes = ring(stage.fleet.nodes, picks[0])
    some, others = nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]
    return _cut(stage, _between(some, others), f"cut {_names(some)} | {_names(others)}")


async def _isolate_leader(stage: Stage, picks: Picks) -> Done:
    node = await stage.leader_or_one(picks[0]) or stage.fleet.nodes[0]
    return _cut(stage, _between([node], stage.fleet.others(node)), f"isolated {node.label}")


def _deafen(stage: Stage, node: ChaosNode) -> Done:
    return _cut(stage, [(other, node) for other in stage.fleet.others(node)], f"{node.label} hears nobody")


def _mute(stage: Stage, node: ChaosNode) -> Done:
    return _cut(stage, [(node, other) for other in stage.fleet.others(node)], f"nobody hears {node.label}")


async def _deaf(stage: Stage, picks: Picks) -> Done:
    return _deafen(stage, ring(stage.fleet.nodes, picks[0])[0])


async def _mute_one(stage: Stage, picks: Picks) -> Done:
    return _mute(stage, ring(stage.fleet.nodes, picks[0])[0])


async def _deaf_leader(stage: Stage, picks: Picks) -> Done:
    return _deafen(stage, await stage.leader_or_one(picks[0]) or stage.fleet.nodes[0])


async def _mute_leader(stage: Stage, picks: Picks) -> Done:
    return _mute(stage, await stage.leader_or_one(picks[0]) or stage.fleet.nodes[0])


async def _bridge(stage: Stage, picks: Picks) -> Done:
    middle, *rest = ring(stage.fleet.nodes, picks[0])
    left, right = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    return _cut(stage, _between(left, right), f"cut {_names(left)} | {_names(right)}, {middle.label} between them")


async def _flap(stage: Stage, picks: Picks) -> Done:
    node = ring(stage.fleet.nodes, picks[0])[0]
    pairs = _between([node], stage.fleet.others(node))

    async def flapping() -> None:
        while True:
            _, mend = _cut(stage, pairs, "")
            await asyncio.sleep(FLAP_S * (0.5 + picks[1]))
            await mend()
            await asyncio.sleep(FLAP_S * (0.5 + picks[2]))

    task = asyncio.create_task(flapping())

    async def steady() -> None:
        task.cancel()
        await asyncio.wait([task])
        for sender, receiver in pairs:
            stage.lan.mend(sender.name, receiver.name)

    return f"the links of {node.label} come and go", steady


async def _unplug(stage: Stage, picks: Picks) -> Done:
    node = ring(stage.fleet.nodes, picks[0])[0]
    stage.lan.unplug(node.name)

    async def plug() -> None:
        stage.lan.plug(node.name)

    return f"unplugged {node.label}", plug


async def _slow(stage: Stage, picks: Picks) -> Done:
    node = ring(stage.fleet.nodes, picks[0])[0]
    stage.lan.slow_down(node.name)

    async def speed_up() -> None:
        stage.lan.speed_up(node.name)

    return f"{node.label} sends slowly", speed_up


# -- operator


async def _replace(stage: Stage, picks: Picks) -> Done:
    return await stage.operator.replace(ring(stage.fleet.nodes, picks[0])[0], picks[1])


async def _demote(stage: Stage, picks: Picks) -> Done:
    return await stage.operator.demote(ring(stage.fleet.nodes, picks[0])[0])


async def _transfer(stage: Stage, picks: Picks) -> Done:
    return await stage.operator.transfer(picks)


async def _snapshot(stage: Stage, picks: Picks) -> Done:
    return await stage.operator.snapshot(ring(stage.fleet.nodes, picks[0])[0])


def _names(nodes: Sequence[ChaosNode]) -> str:
    return " ".join(node.label for node in nodes)


_ACTIONS: Final[dict[str, Callable[[Stage, Picks], Awaitable[Done]]]] = {
    "kill": _kill_one,
    "kill-leader": _kill_leader,
    "kill-majority": _kill_majority,
    "kill-all": _kill_all,
    "storm": _storm,
    "stop": _stop,
    "pause": _pause_one,
    "pause-leader": _pause_leader,
    "partition": _partition,
    "isolate-leader": _isolate_leader,
    "deaf": _deaf,
    "mute": _mute_one,
    "deaf-leader": _deaf_leader,
    "mute-leader": _mute_leader,
    "bridge": _bridge,
    "flap": _flap,
    "unplug": _unplug,
    "slow": _slow,
    "replace": _replace,
    "demote": _demote,
    "transfer": _transfer,
    "snapshot": _snapshot,
}
assert _ACTIONS.keys() == KINDS.keys()
