"""An event loop with virtual time: when nothing is left to do now, time jumps to the next timer.

A simulated hour takes as long as its events do. There are no sockets, threads or files behind the loop: calls that
need them are refused, so that nothing outside can decide the order of events. With one seed for all that is random,
two runs do the same steps in the same order (iterate over no sets of strings: their order changes with the process).

Several nodes can live on one loop: code inside `with loop.inside(node)`, and every task, timer and callback that
comes of it, belongs to the node. A node can be paused (as by SIGSTOP), killed (as by SIGKILL: not even `finally`
blocks run) and given a clock that runs fast or slow.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple, Unpack

__all__ = ["BEGAN_S", "SimDeadlock", "SimLivelock", "SimLoop", "SimNode", "run_simulation"]

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

BEGAN_S: Final = 1_800_000_000.0
"""What wall clocks show at the begin of a simulation."""

CLOCK_RESOLUTION_S: Final = 1e-9
"""Timers closer than this are due together."""

MAX_STEPS_PER_INSTANT: Final = 1_000_000
"""Turns of the loop at one moment: more mean an endless loop."""

MAX_LAST_AWAITS: Final = 100
"""A killed task that still awaits something after so many is left as it is."""

CANCEL_ROUNDS: Final = 20
CLEAN_UP_S: Final = 5.0
"""How often, and with how much simulated time for each, what lives at the end is cancelled."""


class SimDeadlock(RuntimeError):
    """Nothing is ready and no timer is set: no wait can ever end."""


class SimLivelock(RuntimeError):
    """The loop makes too many turns at one moment."""


class SimNode:
    """A process in the simulation. Made by `SimLoop.add_node`."""

    def __init__(self, name: str, loop: SimLoop) -> None:
        self.name = name
        self.killed: bool = False
        self.paused: bool = False
        self._loop = loop
        self._rate = 1.0
        self._since_s = 0.0  # the loop's time when the rate was set last, and the node's own time then
        self._own_s = 0.0
        self._asleep_since_s: float | None = None
        self._asleep_s = 0.0
        self._held: list[_NodeCallback] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.generators: weakref.WeakSet[AsyncGenerator[Any, Any]] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<SimNode {self.name}>"

    @property
    def rate(self) -> float:
        """How many of the node's seconds pass in one second."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        assert rate > 0, "a clock never stands still or goes back"
        now_s = self._loop.true_time()
        self._own_s = self.own_time(now_s)
        self._since_s = now_s
        self._rate = rate

    def leap(self, seconds: float) -> None:
        """The node's clock jumps ahead. Timers that are set already come when they would have come."""
        assert seconds >= 0, "a clock never goes back"
        self._own_s += seconds
        self._loop.leaps += seconds > 0

    def own_time(self, true_s: float) -> float:
        """The node's clock at the loop's time `true_s`."""
        if self._asleep_since_s is not None:
            return self._own_s
        return self._own_s + (true_s - self._since_s) * self._rate

    @property
    def asleep_s(self) -> float:
        """How long the node's machine was suspended in all, the present suspension included."""
        since_s = self._asleep_since_s
        return self._asleep_s + (0.0 if since_s is None else self._loop.true_time() - since_s)

    def pause(self) -> None:
        """Run nothing of the node until `resume`; what is due meanwhile is held back, in order."""
        self.paused = True

    def suspend(self) -> None:
        """Pause it with its machine: the clock stands still until `resume`, and `asleep_s` has that time."""
        now_s = self._loop.true_time()
        if self._asleep_since_s is None:
            self._own_s, self._since_s, self._asleep_since_s = self.own_time(now_s), now_s, now_s
        self.pause()

    def resume(self) -> None:
        """Run what was held back, then go on."""
        if self._asleep_since_s is not None:
            self._asleep_s = self.asleep_s
            self._since_s, self._asleep_since_s = self._loop.true_time(), None
        self.paused = False
        held, self._held = self._held, []
        for step in held:
            step.again()

    def kill(self) -> None:
        """Never run anything of the node again.

        Other nodes do not notice; see `SimNetwork.crash` for its connections.
        """
        self.killed = True
        self._held.clear()

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Keep a task of this node while it lives.

        Once the node is dead, nothing else may refer to it any more; and a coroutine that is collected runs its
        `finally` blocks, as no killed process does.
        """
        self.tasks[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)

    def bury(self) -> None:
        """At the end of the simulation: release killed tasks. Their `finally` blocks run only now, without effect."""
        if not self.killed:
            return
        with self._loop.inside(self):  # what they begin in their last steps is of this node, too
            for _ in range(MAX_LAST_AWAITS):
                tasks, self.tasks = self.tasks, {}
                for task in tasks:
                    task._log_destroy_pending = False  # type: ignore[attr-defined]  # that it is pending is the point
                    coroutine = task.get_coro()
                    if coroutine is not None:
                        _end(coroutine)

    def withholds(self, step: _NodeCallback) -> bool:
        """Whether a step that is due must not run: now (it is kept for later then), or ever."""
        if self.killed:
            return True
        if self.paused:
            self._held.append(step)
            return True
        return False


_node: contextvars.ContextVar[SimNode | None] = contextvars.ContextVar("syncline_sim_node", default=None)


def _end(coroutine: Coroutine[Any, Any, object] | Generator[Any, Any, object]) -> None:
    """Run its `finally` blocks up to the end, over whatever they await, and whatever they find: its world is gone.

    `close` would not do: of coroutines that await each other it ends the outer ones alone if an inner one awaits.
    """
    for _ in range(MAX_LAST_AWAITS):
        try:
            coroutine.throw(asyncio.CancelledError())
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - it has ended, in whatever way
            return


class _NodeCallback:
    """A callback of a node, with the handle by which it may be cancelled."""

    __slots__ = ("arguments", "callback", "handle", "loop", "node")

    def __init__(
        self, loop: SimLoop, node: SimNode, callback: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        self.loop: SimLoop = loop
        self.node: SimNode = node
        self.callback: Callable[..., object] = callback
        self.arguments: tuple[Any, ...] = arguments
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        node = self.node
        if not node.withholds(self):
            self.callback(*self.arguments)
            self.loop.ran(node)

    def again(self) -> None:
        handle = self.handle
        assert handle is not None
        if not handle.cancelled():
            self.loop.run_again(handle)

    def __repr__(self) -> str:
        return f"{self.node.name}: {self.callback!r}"


class _Selector:
    """Replaces the selector on which a loop waits for sockets; here only time passes."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        self._loop.pass_time(timeout)
        return []

    def close(self) -> None:
        pass


class SimLoop(asyncio.BaseEventLoop):
    """The simulation's event loop. See the module's text.

    `after_event`, if set, is called with the node after each event of a node (a callback, a timer, a step of a
    task) and `after_step` after each turn of the loop: the places for checks. `events` counts the former.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _asyncgens: weakref.WeakSet[AsyncGenerator[Any, Any]]

    def __init__(self) -> None:
        super().__init__()
        self.after_step: Callable[[], None] | None = None
        self.after_event: Callable[[SimNode], None] | None = None
        self.steps: int = 0
        self.events: int = 0
        self.leaps: int = 0
        """How often the clock of some node has leapt ahead."""
        self._now_s = 0.0
        self._steps_at_instant = 0
        self._nodes: list[SimNode] = []
        self._owner_thread = threading.get_ident()
        self._selector = _Selector(self)
        self._clock_resolution = CLOCK_RESOLUTION_S

    # -- nodes

    def add_node(self, name: str) -> SimNode:
        """A new node; its clock shows the loop's time until its rate is changed."""
        node = SimNode(name, self)
        self._nodes.append(node)
        return node

    @contextmanager
    def inside(self, node: SimNode | None) -> Iterator[None]:
        """Code in this block belongs to `node` (None: to no node)."""
        token = _node.set(node)
        try:
            yield
        finally:
            _node.reset(token)

    def ran(self, node: SimNode) -> None:
        """An event of `node` is over."""
        self.events += 1
        if self.after_event is not None:
            self.after_event(node)

    # -- time

    def true_time(self) -> float:
        """The simulation's time in seconds since its start, independent of the calling node."""
        return self._now_s

    def time(self) -> float:
        """The time by the clock of the calling node."""
        node = _node.get()
        return self._now_s if node is None else node.own_time(self._now_s)

    def pass_time(self, timeout_s: float | None) -> None:
        """Advance the time once in each turn, in place of a real loop's wait: `None` means without limit, 0 not at
        all.
        """
        self.steps += 1
        if self.after_step is not None:
            self.after_step()
        if timeout_s is None:
            raise SimDeadlock(f"at {self._now_s:.6f} s nothing is ready and no timer is set")
        if timeout_s > 0:
            self._now_s = self._scheduled[0].when()
            # The base class compares with "now + resolution", which must be more than "now" at large times too.
            self._clock_resolution = max(CLOCK_RESOLUTION_S, 4 * math.ulp(self._now_s))
            self._steps_at_instant = 0
            return
        self._steps_at_instant += 1
        if self._steps_at_instant > MAX_STEPS_PER_INSTANT:
            raise SimLivelock(f"{MAX_STEPS_PER_INSTANT} turns of the loop at {self._now_s:.6f} s")

    def call_soon(
        self,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        node = _node_of(context)
        if node is None:
            return super().call_soon(callback, *args, context=context)
        step = _NodeCallback(self, node, callback, args)
        step.handle = super().call_soon(step, context=context)
        return step.handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """The same as `call_soon`: there are no other threads in a simulation."""
        if threading.get_ident() != self._owner_thread:
            raise RuntimeError("a simulation runs on one thread: use SimWorkers in place of threads")
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """`delay` is by the clock of the node that the callback belongs to."""
        node = _node_of(context)
        return self._set_timer(delay if node is None else delay / node.rate, node, callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """`when` is by the clock of the node that the callback belongs to."""
        node = _node_of(context)
        if node is None:
            return self._set_timer(when - self._now_s, None, callback, args, context)
        return self._set_timer((when - node.own_time(self._now_s)) / node.rate, node, callback, args, context)

    def _set_timer(
        self,
        delay_s: float,
        node: SimNode | None,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> asyncio.TimerHandle:
        when_s = self._now_s + delay_s
        if delay_s > 0.0 and when_s == self._now_s:
            # By rounding a node's clock may be a trace before the time that it waits for, and must go on from there.
            when_s = math.nextafter(when_s, math.inf)
        if node is None:
            return super().call_at(when_s, callback, *arguments, context=context)
        step = _NodeCallback(self, node, callback, arguments)
        step.handle = timer = super().call_at(when_s, step, context=context)
        return timer

    def run_again(self, handle: asyncio.Handle) -> None:
        """Put a handle that was held back into the next turn."""
        self._ready.append(handle)

    # -- tasks

    def create_task(  # type: ignore[override]  # the base class spells the coroutine's type out at length
        self,
        coro: Coroutine[Any, Any, Result],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Result]:
        task: asyncio.Task[Result] = super().create_task(coro, name=name, context=context)
        node = _node_of(context)
        if node is not None:
            node.adopt(task)
        return task

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        """Note whose it is: those of a killed node are not closed at the end."""
        super()._asyncgen_firstiter_hook(agen)  # type: ignore[misc]  # not in typeshed
        node = _node.get()
        if node is not None:
            node.generators.add(agen)

    def finish(self) -> None:
        """End the simulation: cancel living tasks, which may clean up, and release killed ones. Then close."""
        around = asyncio._get_running_loop()
        asyncio._set_running_loop(None)  # of a coroutine that closes it: else nothing could run here
        try:
            for node in self._nodes:
                if node.paused and not node.killed:
                    node.kill()
            self.after_step = self.after_event = None
            for _ in range(CANCEL_ROUNDS):
                self._cancel_living()
            if living := self._living():
                raise RuntimeError(f"tasks that go on after they were cancelled {CANCEL_ROUNDS} times: {living}")
            for node in self._nodes:
                if node.killed:
                    self._asyncgens -= node.generators
            self.run_until_complete(self.shutdown_asyncgens())
            asyncio._set_running_loop(self)  # asyncio would make another loop
            for node in self._nodes:
                node.bury()
        finally:
            asyncio._set_running_loop(around)
            self.close()

    def _living(self) -> list[asyncio.Task[Any]]:
        """Tasks outside of killed processes: in those nothing runs any more, so none of theirs ever ends."""
        dead = {task for node in self._nodes if node.killed for task in node.tasks}
        return [task for task in asyncio.all_tasks(self) if task not in dead]

    def _cancel_living(self) -> None:
        """Cancel what lives, and give it time to clean up. It may kill a process, and that has tasks, too."""
        living = self._living()
        if not living:
            return
        ended: asyncio.Future[None] = self.create_future()

        def enough() -> None:
            if not ended.done():
                ended.set_result(None)

        def look(_: object) -> None:
            if all(task.done() for task in living):
                enough()

        for task in living:
            task.add_done_callback(look)
            task.cancel()
        timer = self.call_later(CLEAN_UP_S, enough)
        self.run_until_complete(ended)
        timer.cancel()
        for task in living:
            if task.done() and not task.cancelled():
                task.exception()  # what is cut short says nothing

    # -- what a simulation does not have

    def run_in_executor(self, executor: object, func: Callable[..., object], *args: object) -> NoReturn:
        raise RuntimeError(f"a simulation has no threads to run {func!r}{args!r} on (in {executor!r}): use SimWorkers")

    def _process_events(self, event_list: list[object]) -> None:
        assert not event_list, "nothing comes from outside"

    def _write_to_self(self) -> None:
        """Wakes a loop that waits; this one never does."""


def run_simulation(main: Callable[[SimLoop], Coroutine[Any, Any, Result]]) -> Result:
    """Run `main(loop)` to its end on a loop of its own."""
    loop = SimLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.finish()


def _node_of(context: contextvars.Context | None) -> SimNode | None:
    return _node.get() if context is None else context.get(_node)
