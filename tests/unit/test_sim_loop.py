"""Virtual time, nodes that pause and die, and workers without threads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import threading

import pytest

from syncline.testing.sim.loop import SimDeadlock, SimLivelock, SimLoop, SimNode, run_simulation
from syncline.testing.sim.workers import SimWorkers


class TestTime:
    def test_virtual_time_jumps_only_when_there_is_no_work(self) -> None:
        async def main(loop: SimLoop) -> list[float]:
            times = [loop.time()]
            for _ in range(100):
                await asyncio.sleep(0)
            times.append(loop.time())
            await asyncio.sleep(3600)
            times.append(loop.time())
            return times

        assert run_simulation(main) == [0.0, 0.0, 3600.0]

    def test_a_year_passes_in_a_moment_and_timers_come_in_their_order(self) -> None:
        async def main(loop: SimLoop) -> list[int]:
            order: list[int] = []
            year = 365 * 86400.0
            for number in (5, 3, 9, 1):
                loop.call_later(year * number, order.append, number)
            await asyncio.sleep(year * 10)
            return order

        assert run_simulation(main) == [1, 3, 5, 9]

    def test_time_limits_work(self) -> None:
        async def main(loop: SimLoop) -> float:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5.0):
                    await loop.create_future()
            return loop.time()

        assert run_simulation(main) == 5.0

    def test_what_never_comes_is_a_deadlock_at_once(self) -> None:
        async def main(loop: SimLoop) -> None:
            await asyncio.sleep(7)
            await loop.create_future()

        with pytest.raises(SimDeadlock, match=r"at 7\.0+ s nothing is ready"):
            run_simulation(main)

    def test_work_that_makes_work_for_ever_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("syncline.testing.sim.loop.MAX_STEPS_PER_INSTANT", 1000)

        async def main(loop: SimLoop) -> None:
            def again() -> None:
                loop.call_soon(again)

            again()
            await asyncio.sleep(1)

        with pytest.raises(SimLivelock, match="1000 turns"):
            run_simulation(main)

    def test_checks_run_after_every_turn(self) -> None:
        async def main(loop: SimLoop) -> None:
            state = {"value": 0}

            def check() -> None:
                assert state["value"] < 3, "the check sees it"

            loop.after_step = check
            for _ in range(5):
                state["value"] += 1
                await asyncio.sleep(1)

        with pytest.raises(AssertionError, match="the check sees it"):
            run_simulation(main)

    def test_two_runs_with_one_seed_give_the_same_trace(self) -> None:
        def trace(seed: int) -> list[str]:
            async def main(loop: SimLoop) -> list[str]:
                rng = random.Random(seed)
                lines: list[str] = []

                async def walk(name: str) -> None:
                    for step in range(20):
                        await asyncio.sleep(rng.choice([0, 0.1, rng.random()]))
                        lines.append(f"{loop.time():.9f} {name} {step}")

                async with asyncio.TaskGroup() as group:
                    for name in "abcdef":
                        group.create_task(walk(name))
                return lines

            return run_simulation(main)

        assert trace(1) == trace(1)
        assert trace(1) != trace(2)


class TestWhatASimulationDoesNotHave:
    def test_threads_are_refused(self) -> None:
        async def main(loop: SimLoop) -> None:
            with pytest.raises(RuntimeError, match="no threads"):
                loop.run_in_executor(None, print)
            with pytest.raises(RuntimeError, match="no threads"):
                await loop.getaddrinfo("localhost", 80)

        run_simulation(main)

    def test_a_call_from_another_thread_is_refused_one_from_its_own_is_not(self) -> None:
        async def main(loop: SimLoop) -> list[str]:
            said: list[str] = []
            loop.call_soon_threadsafe(said.append, "own")

            def elsewhere() -> None:
                try:
                    loop.call_soon_threadsafe(said.append, "other")
                except RuntimeError as error:
                    said.append(str(error))

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            await asyncio.sleep(0)
            return said

        first, second = run_simulation(main)
        assert first == "a simulation runs on one thread: use SimWorkers in place of threads"
        assert second == "own"


async def count_for_ever(lines: list[str], name: str) -> None:
    try:
        while True:
            await asyncio.sleep(1)
            lines.append(f"{name} {asyncio.get_running_loop().time():g}")
    finally:
        lines.append(f"{name} cleaned up")


def start(loop: SimLoop, node: SimNode, lines: list[str]) -> None:
    with loop.inside(node):
        loop.create_task(count_for_ever(lines, node.name))


class TestNodes:
    def test_a_killed_node_does_nothing_more_not_even_clean_up(self) -> None:
        lines: list[str] = []

        async def main(loop: SimLoop) -> list[str]:
            first, second = loop.add_node("a"), loop.add_node("b")
            start(loop, first, lines)
            start(loop, second, lines)
            await asyncio.sleep(1.5)
            first.kill()
            await asyncio.sleep(1)
            return list(lines)

        assert run_simulation(main) == ["a 1", "b 1", "b 2"]

    def test_killed_task_without_references_runs_no_finally(self) -> None:
        lines: list[str] = []

        async def forlorn(loop: SimLoop) -> None:
            try:
                await loop.create_future()  # known to this frame alone
            finally:
                lines.append("cleaned up")

        async def main(loop: SimLoop) -> list[str]:
            node = loop.add_node("a")
            with loop.inside(node):
                loop.create_task(forlorn(loop))
            await asyncio.sleep(1)
            node.kill()
            gc.collect()
            await asyncio.sleep(1)
            return list(lines)

        assert run_simulation(main) == []

    def test_killed_task_that_awaits_in_finally_ends_silently(self, monkeypatch: pytest.MonkeyPatch) -> None:
        heard: list[object] = []
        monkeypatch.setattr(sys, "unraisablehook", heard.append)

        async def stubborn(loop: SimLoop) -> None:
            try:
                await loop.create_future()
            finally:
                try:
                    await loop.create_future()
                finally:
                    await loop.create_future()

        async def patient(loop: SimLoop) -> None:
            with contextlib.suppress(Exception):
                await stubborn(loop)

        async def main(loop: SimLoop) -> None:
            node = loop.add_node("a")
            with loop.inside(node):
                loop.create_task(patient(loop))
            await asyncio.sleep(1)
            node.kill()

        run_simulation(main)
        gc.collect()
        assert heard == []

    def test_a_paused_node_catches_up_in_order(self) -> None:
        async def main(loop: SimLoop) -> list[str]:
            lines: list[str] = []

            def tell(number: int) -> None:
                lines.append(f"{number} at {loop.true_time():g}")

            node = loop.add_node("a")
            with loop.inside(node):
                for number in range(4):
                    loop.call_later(number, tell, number)
                cancelled = loop.call_later(2.5, lines.append, "never")
            await asyncio.sleep(0.5)
            node.pause()
            await asyncio.sleep(4)
            assert lines == ["0 at 0"]
            cancelled.cancel()
            node.resume()
            await asyncio.sleep(0)
            return lines

        assert run_simulation(main) == ["0 at 0", "1 at 4.5", "2 at 4.5", "3 at 4.5"]

    def test_a_node_s_clock_may_run_fast(self) -> None:
        async def main(loop: SimLoop) -> list[str]:
            lines: list[str] = []
            node = loop.add_node("a")
            start(loop, node, lines)
            await asyncio.sleep(2.5)
            node.rate = 10.0
            await asyncio.sleep(0.95)  # the timer set before fires half a second later, the others ten times as often
            return list(lines)

        lines = run_simulation(main)
        assert lines[:2] == ["a 1", "a 2"]
        assert len(lines) == 7
        assert lines[2] == "a 7.5", "ten times half a second passed since 2.5"

    def test_a_node_s_timer_that_fires_a_trace_early_may_be_set_again(self) -> None:
        """By rounding: a callback that waits again for its time does not stop the time of all."""

        async def main(loop: SimLoop) -> int:
            rng, node, reached = random.Random(1), loop.add_node("a"), 0

            def tick(deadline_s: float) -> None:
                nonlocal reached
                if loop.time() < deadline_s:
                    loop.call_at(deadline_s, tick, deadline_s)
                else:
                    reached += 1

            for _ in range(200):
                node.rate = rng.uniform(0.8, 1.25)
                with loop.inside(node):
                    tick(loop.time() + rng.random())
                await asyncio.sleep(rng.random())
            await asyncio.sleep(2.0)
            return reached

        assert run_simulation(main) == 200

    def test_a_node_s_clock_may_leap_and_its_timers_do_not(self) -> None:
        async def main(loop: SimLoop) -> list[float]:
            node = loop.add_node("a")
            times: list[float] = []
            with loop.inside(node):
                loop.call_later(1.0, lambda: times.append(loop.time()))
            node.leap(60.0)
            await asyncio.sleep(2.0)
            return [*times, loop.true_time()]

        assert run_simulation(main) == [61.0, 2.0]

    def test_checks_run_after_each_event_of_a_node_alone(self) -> None:
        async def main(loop: SimLoop) -> list[str]:
            node, seen = loop.add_node("a"), list[str]()
            loop.after_event = lambda owner: seen.append(owner.name)
            with loop.inside(node):
                loop.call_soon(seen.append, "one")
                loop.call_later(1.0, seen.append, "two")
            loop.call_soon(seen.append, "outside")
            await asyncio.sleep(2.0)
            assert loop.events == 2
            return seen

        assert run_simulation(main) == ["one", "a", "outside", "two", "a"]

    def test_what_a_node_starts_is_the_node_s(self) -> None:
        async def main(loop: SimLoop) -> list[str]:
            lines: list[str] = []
            node = loop.add_node("a")

            async def parent() -> None:
                await asyncio.gather(count_for_ever(lines, "child"), count_for_ever(lines, "other"))

            with loop.inside(node):
                loop.create_task(parent())
            await asyncio.sleep(1.5)
            node.kill()
            await asyncio.sleep(5)
            return list(lines)

        assert run_simulation(main) == ["child 1", "other 1"]


class Work:
    """A worker's life, written down."""

    def __init__(self, loop: SimLoop, fail_at: int = 99) -> None:
        self.lines: list[str] = []
        self.loop = loop
        self.fail_at = fail_at

    def process(self, items: list[int]) -> int:
        if self.fail_at in items:
            raise OSError("the disk is broken")
        self.lines.append(f"{self.loop.time():g} process {items}")
        return len(items)

    def deliver(self, count: int) -> None:
        self.lines.append(f"{self.loop.time():g} deliver {count}")

    def failed(self, error: BaseException) -> None:
        self.lines.append(f"{self.loop.time():g} failed: {error}")


def one_second(worker: str, rng: random.Random) -> float:
    return 1.0


class TestWorkers:
    def test_items_gather_while_a_batch_runs_and_none_overlap(self) -> None:
        async def main(loop: SimLoop) -> list[str]:
            work = Work(loop)
            worker = SimWorkers(random.Random(1), delay=one_second).start("w", work.process, work.deliver, work.failed)
            worker.put(1)
            worker.put(2)
            assert worker.queued == 1
            await asyncio.sleep(0.5)
            worker.put(3)
            await worker.close()
            worker.put(4)
            await asyncio.sleep(5)
            return work.lines

        assert run_simulation(main) == ["1 process [1]", "1 deliver 1", "2 process [2, 3]", "2 deliver 2"]

    def test_the_first_failure_is_the_last_word(self) -> None:
        async def main(loop: SimLoop) -> list[str]:
            work = Work(loop, fail_at=2)
            worker = SimWorkers(random.Random(1), delay=one_second).start("w", work.process, work.deliver, work.failed)
            for number in (1, 2, 3):
                worker.put(number)
                await asyncio.sleep(0.1)
            await worker.close()
            worker.put(4)
            await asyncio.sleep(5)
            return work.lines

        assert run_simulation(main) == ["1 process [1]", "1 deliver 1", "2 failed: the disk is broken"]

    def test_a_crash_loses_what_was_not_processed_and_delivers_nothing(self) -> None:
        async def main(loop: SimLoop) -> list[str]:
            work = Work(loop)
            workers = SimWorkers(random.Random(1), delay=one_second)
            worker = workers.start("w", work.process, work.deliver, work.failed)
            worker.put(1)
            await asyncio.sleep(0.5)
            workers.crash()
            worker.put(2)
            await worker.close()
            await asyncio.sleep(5)
            return work.lines

        assert run_simulation(main) == []

    def test_closing_an_idle_worker_is_immediate(self) -> None:
        async def main(loop: SimLoop) -> float:
            work = Work(loop)
            await SimWorkers(random.Random(1)).start("w", work.process, work.deliver, work.failed).close()
            return loop.time()

        assert run_simulation(main) == 0.0

    def test_a_killed_node_s_workers_stop_with_it(self) -> None:
        async def main(loop: SimLoop) -> list[str]:
            work = Work(loop)
            node = loop.add_node("a")
            with loop.inside(node):
                workers = SimWorkers(random.Random(1), delay=one_second)
                workers.start("w", work.process, work.deliver, work.failed).put(1)
            await asyncio.sleep(0.5)
            node.kill()
            await asyncio.sleep(5)
            return work.lines

        assert run_simulation(main) == []
