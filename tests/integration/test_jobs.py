"""The programs that people come for, as they are written in the documentation, on real nodes."""

from __future__ import annotations

import asyncio
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.async_tests import run
from tests.helpers.process_cluster import Cluster, eventually
from tests.helpers.programs import ASYNC_PRELUDE, DEADLINE_S, RunningProgram, running_command, running_program

ONCE: Final = """
@kv.once("nightly")
def send_report():
    say(ran=True)
    return "sent"

say(result=send_report())
"""

EVERY: Final = """
from jobs import job

kv.every("5m", job)
"""

JOBS: Final = """
import json, time

def job():
    print(json.dumps({"ran": round(time.time())}), flush=True)
"""

LOCK: Final = """
with kv.lock("printer", ttl=10) as held: write(page, fence=held.token)
"""

ELECT: Final = """
for term in kv.elect("master"):
    with term:
        lead(term.token)
"""

SESSIONS: Final = """
sessions = kv.sessions(ttl=3600)
sessions.set("ada", {"cart": ["book"]})
say(cart=sessions.get("ada")["cart"])
sessions.touch("ada")
sessions.delete("ada")
say(gone=sessions.get("ada"))
"""

AGENTS: Final = """
async def main():
    async with kv:
        async with kv.lock("repo", holders=3):
            async with kv.register("service/api", address):
                found = await kv.discover("service/api")
                say(address=address, found=[instance.address for instance in found])
                await asyncio.sleep(60.0)

address = os.environ["ADDRESS"]
asyncio.run(main())
"""

RUN_ONCE: Final = "syncline run --once nightly -- python report.py"
RUN_LEADER: Final = "syncline run --leader ha -- ./start-hass"
RUN_LOCK: Final = "syncline run --lock printer --ttl 2s -- ./start-hass"

PAGE: Final = """
def write(page, fence):
    while True:
        held.check()
        say(token=fence)
        time.sleep(0.05)  # between two polls

page = "a page"
"""

LEAD: Final = """
def lead(token):
    say(token=token)
    while True:
        time.sleep(0.05)  # between two polls
        term.check()
"""

START_HASS: Final = f"""#!{sys.executable} -S
import json, os, time
while True:
    said = {{"at": time.monotonic(), "runs": os.getpid(), "token": os.environ["SYNCLINE_TOKEN"]}}
    print(json.dumps(said), flush=True)
    time.sleep(0.05)  # between two polls
"""

REPORT: Final = """
import json
print(json.dumps({"ran": True}), flush=True)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes for all tests of the file. A test that kills a node starts it again."""
    cluster = Cluster(str(tmp_path_factory.mktemp("nodes")), 3, {})
    try:
        cluster.start()
        run(cluster.wait_ready())
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The commands of the programs."""
    (tmp_path / "report.py").write_text(REPORT, encoding="utf-8")
    (tmp_path / "jobs.py").write_text(JOBS, encoding="utf-8")
    start = tmp_path / "start-hass"
    start.write_text(START_HASS, encoding="utf-8")
    start.chmod(start.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def shell(line: str, cluster: Cluster, folder: Path) -> AbstractAsyncContextManager[RunningProgram]:
    """A line as a user types it."""
    return running_command(["sh", "-c", f"exec {line}"], cluster.endpoints, folder=folder)


def spoken(programs: list[RunningProgram], what: str) -> int:
    return sum(what in said for program in programs for said in program.said)


async def true_if(condition: bool) -> bool:
    return condition


async def first_of(programs: list[RunningProgram], what: str) -> RunningProgram:
    """The first program that says it."""
    tasks = {asyncio.ensure_future(program.until(what)): program for program in programs}
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    task = done.pop()
    task.result()
    return tasks[task]


async def test_job_once_runs_in_one_of_many_workers(cluster: Cluster) -> None:
    async with cluster.client() as kv:
        await kv.delete("once/nightly")
    async with AsyncExitStack() as stack:
        programs = [await stack.enter_async_context(running_program(ONCE, cluster.endpoints)) for _ in range(3)]
        results = [(await program.until("result"))["result"] for program in programs]
        assert sorted(results, key=str) == [None, None, "sent"]
        assert spoken(programs, "ran") == 1


async def test_job_every_runs_each_time_once(cluster: Cluster, folder: Path) -> None:
    """As it is written, and with shorter times: two processes run each of them once."""
    where = {"PYTHONPATH": str(folder)}
    async with running_program(EVERY + "say(began=True)\nkv.close()\n", cluster.endpoints, **where) as program:
        await program.until("began")
        assert await program.ended() == 0, program.errors
    text = EVERY.replace('"5m"', '"2s"') + "time.sleep(60.0)  # until the deadline\n"
    async with AsyncExitStack() as stack:
        programs = [
            await stack.enter_async_context(running_program(text, cluster.endpoints, **where)) for _ in range(2)
        ]
        await eventually("three times have come", lambda: true_if(spoken(programs, "ran") >= 3))
        times = sorted(said["ran"] // 2 for program in programs for said in program.said)
        assert len(set(times)) == len(times)


async def test_job_lock_gives_a_token_that_fences(cluster: Cluster) -> None:
    """kill -9 of its holder, with a shorter TTL: the next one writes in time, with a newer token."""
    async with running_program(PAGE + LOCK, cluster.endpoints) as program:
        await program.until("token")
        program.send(signal.SIGINT)
        assert await program.ended() != 0
    text = PAGE + LOCK.replace("ttl=10", "ttl=2")
    await next_after_kill(text, cluster, ttl_s=2.0)


async def test_job_elect_gives_terms_of_leadership(cluster: Cluster) -> None:
    async with running_program(LEAD + ELECT, cluster.endpoints) as program:
        await program.until("token")
    await next_after_kill(LEAD + ELECT.replace('"master"', '"small", ttl=2'), cluster, ttl_s=2.0)


async def next_after_kill(text: str, cluster: Cluster, *, ttl_s: float, with_leader: bool = False) -> None:
    """Two processes run the program; the one that holds it is killed, and the other one has it then.

    How soon is seen in virtual time: `tests/simulation/test_coordination.py`.
    """
    async with running_program(text, cluster.endpoints) as one, running_program(text, cluster.endpoints) as two:
        holder = await first_of([one, two], "token")
        other = two if holder is one else one
        token = (await holder.until("token"))["token"]
        leader = await cluster.leader() if with_leader else None
        holder.kill()
        if leader is not None:
            leader.kill()
        said = await other.until("token", deadline_s=ttl_s + DEADLINE_S)
        assert said["token"] > token
        if leader is not None:
            leader.start()
            await cluster.wait_ready([leader])


async def test_job_sessions_are_shared_by_all_workers(cluster: Cluster) -> None:
    async with running_program(SESSIONS, cluster.endpoints) as program:
        assert (await program.until("cart"))["cart"] == ["book"]
        assert (await program.until("gone"))["gone"] is None
        assert await program.ended() == 0, program.errors


async def test_job_agents_share_a_lock_and_find_each_other(cluster: Cluster) -> None:
    """Three of four agents have a place; kill -9 of one lets the fourth in, and its address goes."""
    async with AsyncExitStack() as stack:
        agents = []
        for number in range(4):
            text = AGENTS.replace("holders=3", "holders=3, ttl=2").replace("address):", "address, ttl=2):", 1)
            agent = running_program(text, cluster.endpoints, prelude=ASYNC_PRELUDE, ADDRESS=f"10.0.0.{number}:80")
            agents.append(await stack.enter_async_context(agent))
        await eventually("three agents have a place", lambda: true_if(spoken(agents, "address") == 3))
        [waiting] = [agent for agent in agents if not agent.said]
        gone = next(agent for agent in agents if agent.said)
        gone.kill()
        await waiting.until("found")
        async with cluster.client() as kv:

            async def is_gone() -> bool:
                found = [instance.address for instance in await kv.discover("service/api")]
                return gone.said[0]["address"] not in found and len(found) == 3

            await eventually("the address of the one that was killed goes", is_gone)


async def test_job_run_once_runs_one_command_of_many(cluster: Cluster, folder: Path) -> None:
    async with cluster.client() as kv:
        await kv.delete("once/nightly")  # of the program with the decorator: it is the same name
    async with AsyncExitStack() as stack:
        programs = [await stack.enter_async_context(shell(RUN_ONCE, cluster, folder)) for _ in range(2)]
        assert [await program.ended() for program in programs] == [0, 0]
        assert spoken(programs, "ran") == 1


@pytest.mark.parametrize("how", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGSTOP])
async def test_job_run_with_a_lock_has_one_command_at_a_time(
    cluster: Cluster, folder: Path, how: signal.Signals
) -> None:
    """The command ends before another one begins, also if its `syncline run` was killed or stopped."""
    await one_command_at_a_time(RUN_LOCK.replace("printer", how.name), cluster, folder, how, ttl_s=2.0)


async def test_job_run_as_leader_begins_as_it_is_written(cluster: Cluster, folder: Path) -> None:
    async with shell(RUN_LEADER, cluster, folder) as box:
        await box.until("runs")
        box.send(signal.SIGTERM)
        assert await box.ended() == 128 + signal.SIGTERM


async def one_command_at_a_time(
    line: str, cluster: Cluster, folder: Path, how: signal.Signals, *, ttl_s: float, with_leader: bool = False
) -> None:
    async with shell(line, cluster, folder) as one, shell(line, cluster, folder) as two:
        holder = await first_of([one, two], "runs")
        other = two if holder is one else one
        leader = await cluster.leader() if with_leader else None
        holder.send(how)
        if leader is not None:
            leader.kill()
        said = await other.until("runs", deadline_s=ttl_s + DEADLINE_S)
        assert int(said["token"]) > int(holder.said[0]["token"])
        last = [beat["at"] for beat in holder.said if "runs" in beat][-1]
        assert last < said["at"], "two commands at once"
        if how is signal.SIGSTOP:
            holder.send(signal.SIGCONT)
            assert await holder.ended() == 123, holder.errors
        if leader is not None:
            leader.start()
            await cluster.wait_ready([leader])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.deadline(240.0)
async def test_job_programs_as_written_go_on_after_kills_of_holders_and_nodes(cluster: Cluster, folder: Path) -> None:
    """With the TTL of the text, 10 s: the holder, and the leader of the cluster with it."""
    for with_leader in (False, True):
        await next_after_kill(PAGE + LOCK, cluster, ttl_s=10.0, with_leader=with_leader)
        await next_after_kill(LEAD + ELECT, cluster, ttl_s=10.0, with_leader=with_leader)
        for how in (signal.SIGKILL, signal.SIGSTOP):
            line = RUN_LEADER.replace("--leader ha", f"--leader {how.name}") if with_leader else RUN_LEADER
            if how is signal.SIGKILL:
                await one_command_at_a_time(line, cluster, folder, how, ttl_s=10.0, with_leader=with_leader)
