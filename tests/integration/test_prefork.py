"""The blocking client in programs that fork, and in pre-fork web servers, with real processes."""

from __future__ import annotations

import pytest

from syncline.client import Client
from syncline.testing import ProcessCluster
from tests.helpers.prefork import post_all, program, serving

MULTIPROCESSING = """
    import multiprocessing, sys
    from tests.helpers.counting import child
    from syncline import Client
    import os

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        with Client(os.environ["SYNCLINE_ENDPOINTS"], timeout=20.0) as kv:
            print(kv.increment("count"))
            answers = context.Queue()
            children = [context.Process(target=child, args=(kv, answers)) for _ in range(2)]
            for one in children:
                one.start()
            print(sorted(answers.get(timeout=30) for _ in range(4)))
            for one in children:
                one.join(30)
                assert one.exitcode == 0
            print(kv.increment("count"))
"""


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(method, marks=pytest.mark.slow) for method in ("spawn", "forkserver"))]
)
def test_client_serves_the_children_of_multiprocessing(
    kv: Client, syncline_cluster: ProcessCluster, method: str
) -> None:
    """The client is an argument: a forked child inherits it, another one makes one like it."""
    said = program(MULTIPROCESSING, method, endpoints=syncline_cluster.endpoints)
    assert said == ["1", "[2, 3, 4, 5]", "6"]


FORKS = """
    import os, threading
    from syncline import Client

    kv = Client(os.environ["SYNCLINE_ENDPOINTS"], timeout=20.0)
    stop = threading.Event()

    def count():
        while not stop.is_set():
            kv.increment("parent")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    while int(kv.get("parent").value if kv.get("parent") else 0) < 8:
        pass
    for _ in range(8):
        if os.fork() == 0:
            for _ in range(5):
                kv.increment("children")
            os._exit(0)
    print({os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(8)})
    stop.set()
    for thread in threads:
        thread.join(30)
    print(kv.get("children").value)
"""


def test_client_serves_children_forked_while_threads_are_in_calls(kv: Client, syncline_cluster: ProcessCluster) -> None:
    assert program(FORKS, endpoints=syncline_cluster.endpoints) == ["{0}", "b'40'"]


ENDS = """
    import os, sys
    from syncline import Client

    kv = Client(os.environ["SYNCLINE_ENDPOINTS"])
    lease = kv.lease(5)
    lease.__enter__()
    watch = kv.watch(prefix="", from_revision=1)
    kv.put("a", "b", lease=lease.id)
    next(watch)
    if os.fork() == 0:
        kv.get("a")
        for use in (lambda: lease.check(), lambda: next(watch), watch.close):
            try:
                use()
            except RuntimeError as error:
                print(error)
        sys.exit()
    os.wait()
    lease.check()
    print("parent", next(iter(kv.scan())).key)
"""


def test_client_that_is_not_closed_leaves_no_word_at_the_end(kv: Client, syncline_cluster: ProcessCluster) -> None:
    """Nor in a child, in which what the parent holds is a usage error."""
    error = "belongs to the process that this one was forked from: begin another one here"
    assert program(ENDS, endpoints=syncline_cluster.endpoints) == [
        f"the lease {error}", f"the iterator {error}", f"the iterator {error}", "parent b'a'",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("app", "workers", "options"),
    [
        ("flask_app:app", 2, ("--preload", "--threads", "2")),
        pytest.param("django_app:application", 2, ("--preload",), marks=pytest.mark.slow),
        pytest.param("fastapi_app:app", 2, ("--worker-class", "asgi"), marks=pytest.mark.slow),
    ],
)
def test_web_example_counts_in_all_workers(
    kv: Client, syncline_cluster: ProcessCluster, app: str, workers: int, options: tuple[str, ...]
) -> None:
    """With --preload the client is in use before the fork. Each request counts once."""
    arguments = ("--workers", str(workers), *options)
    answers: list[dict[str, int]] = []
    with serving(f"examples.web.{app}", *arguments, endpoints=syncline_cluster.endpoints) as url:
        while len({answer["worker"] for answer in answers}) < workers:
            answers += post_all(f"{url}/visits", 40)
    assert sorted(answer["visits"] for answer in answers) == list(range(1, len(answers) + 1))
    found = kv.get("visits")
    assert found is not None
    assert found.value == b"%d" % len(answers)
    if "--preload" in options:
        assert {answer["starts"] for answer in answers} == {1}
        assert kv.increment("starts") == 2


def test_cron_example_runs_on_one_machine(kv: Client, syncline_cluster: ProcessCluster) -> None:
    source = "import runpy; runpy.run_module('examples.cron.nightly', run_name='__main__')"
    said = [program(source, endpoints=syncline_cluster.endpoints) for _ in range(2)]
    assert said == [["the report is sent"], ["nothing to do"]]
