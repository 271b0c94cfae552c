"""What Django's own tests don't look at: locks, deaths, two processes, the other serializer."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date
from typing import Final
from uuid import UUID

import pytest

from syncline.client import Client
from syncline.contrib.django import Cache, JsonSerializer
from syncline.contrib.django.values import encode_value, serializer_of
from syncline.errors import ConfigError, DeadlineExceeded
from syncline.testing.process_cluster import ProcessCluster

HOLDER: Final = """
import sys
from syncline.contrib.django import Cache
cache = Cache(sys.argv[1], {})
with cache.lock("report", timeout=3) as held:
    print(held.token, flush=True)
    sys.stdin.read()
"""

MakeCache = Callable[..., Cache]


@pytest.fixture
def make(kv: Client, syncline_cluster: ProcessCluster) -> MakeCache:
    del kv  # it has emptied the store

    def made(**options: object) -> Cache:
        return Cache(syncline_cluster.endpoints, {"OPTIONS": {"timeout": 20, **options}})

    return made


def test_cache_lock_of_a_killed_holder_is_free_after_its_ttl(make: MakeCache, syncline_cluster: ProcessCluster) -> None:
    cache = make()
    command = [sys.executable, "-c", HOLDER, ",".join(syncline_cluster.endpoints)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    token = int(holder.stdout.readline())
    with pytest.raises(DeadlineExceeded, match="it is not free"):
        cache.lock("report", blocking_timeout=0).acquire()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with cache.lock("report", timeout=3, blocking_timeout=60) as held:
        assert held.token > token


def test_cache_keeps_its_values_when_the_leading_node_is_killed(
    make: MakeCache, syncline_cluster: ProcessCluster
) -> None:
    cache = make()
    cache.set("a", {"n": 1}, timeout=None)
    cache.set("n", 0, timeout=600)
    leader = syncline_cluster.leader()
    syncline_cluster.kill(leader)
    assert [cache.incr("n") for _ in range(5)] == [1, 2, 3, 4, 5]
    assert cache.get_many(["a", "n", "none"]) == {"a": {"n": 1}, "n": 5}
    syncline_cluster.restart(leader)
    assert cache.get("n") == 5


def test_cache_incr_and_add_of_many_threads_lose_nothing(make: MakeCache) -> None:
    """A number of the servers, and one beyond 64 bits, which is changed by compare and swap."""
    cache = make()
    cache.set("n", 0, timeout=600)
    cache.set("huge", 10**30, timeout=600)
    added: list[bool] = []

    def work() -> None:
        added.append(cache.add("first", 1))
        for _ in range(5):
            cache.incr("n")
            cache.incr("huge")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (cache.get("n"), cache.get("huge") - 10**30, sorted(added)) == (20, 20, [False, False, False, True])  # type: ignore[operator]


@pytest.mark.parametrize(("start", "delta"), [(10**18 - 1, 1), (1 - 10**18, -1), (2**63 - 1, 1), (1, 2**64)])
def test_cache_incr_across_a_limit_of_digits_stays_readable(make: MakeCache, start: int, delta: int) -> None:
    """The servers add up to 64 bits, so their sums have one digit more than 10**18 - 1."""
    cache = make()
    cache.set("n", start, timeout=600)
    assert cache.incr("n", delta) == start + delta
    assert (cache.get("n"), cache.touch("n"), cache.add("n", 0)) == (start + delta, True, False)
    assert cache.incr("n", -delta) == start


def test_cache_add_replaces_a_value_that_is_over_while_others_write(make: MakeCache, kv: Client) -> None:
    """Its lease has not ended yet. The store's revision goes on with each write of others."""
    kv.put("django/cache/:1:a", encode_value("old", serializer_of(None), time.time() - 1))
    kv.put("other", "1")
    cache = make()
    assert cache.add("a", "new")
    assert cache.get("a") == "new"


def test_cache_incr_keeps_the_end_of_a_value(make: MakeCache, kv: Client) -> None:
    cache = make()
    for name, value in (("small", 1), ("huge", 10**30)):
        cache.set(name, value, timeout=600)
        [before] = kv.list(f"django/cache/:1:{name}").items
        cache.incr(name)
        [after] = kv.list(f"django/cache/:1:{name}").items
        assert after.lease == before.lease != 0


def test_cache_with_json_reads_what_it_wrote_and_refuses_objects(make: MakeCache) -> None:
    cache = make(serializer="syncline.contrib.django.JsonSerializer", name="json")
    cache.set("a", {"x": [1, None, "ä"]})
    assert cache.get("a") == {"x": [1, None, "ä"]}
    others = (object(), b"bytes", {1}, [date(2026, 1, 1)], {"x": (UUID(int=0),)})  # msgspec would write text or lists
    for value in others:
        with pytest.raises(TypeError):
            cache.set("a", value)
    assert isinstance(cache._serializer, JsonSerializer)


def test_cache_clear_leaves_other_caches_alone(make: MakeCache) -> None:
    first, second = make(name="first"), make(name="second")
    first.set_many({f"k{number}": number for number in range(1200)})
    second.set("a", 1)
    first.clear()
    assert (first.get("k7"), second.get("a")) == (None, 1)


@pytest.mark.filterwarnings("ignore::django.core.cache.CacheKeyWarning")
def test_cache_key_that_is_too_long_is_kept_by_its_digest(make: MakeCache) -> None:
    cache = make()
    cache.set("k" * 5000, 1)
    assert (cache.get("k" * 5000), cache.get("k" * 5001)) == (1, None)
    with cache.lock("k" * 5000) as held, pytest.raises(DeadlineExceeded):
        cache.lock("k" * 5000, blocking_timeout=0).acquire()
    assert held.token > 0


@pytest.mark.filterwarnings("ignore::django.core.cache.CacheKeyWarning")
def test_cache_keys_with_odd_characters_are_keys_of_their_own(make: MakeCache) -> None:
    cache = make(name="odd")
    odd = ["a/../b", "..", "/", "a//b", "\x00", "a\nb\r\n", "ä😀", "%2f", "a?b#c", " ", "", ":1:a"]
    cache.set_many({key: key for key in odd})
    assert [cache.get(key) for key in odd] == odd
    assert cache.get_many(odd) == {key: key for key in odd}
    cache.delete_many(odd)
    assert cache.get_many(odd) == {}


def test_cache_timeouts_at_their_edges(make: MakeCache) -> None:
    """A timeout that is over deletes; what the store has no lease for is refused, and nothing is written."""
    cache = make(name="edges")
    for timeout in (0, -1, -0.5):
        cache.set("a", None, timeout=None)
        assert cache.has_key("a")
        assert cache.get("a", "none") is None
        cache.set("a", 1, timeout=timeout)
        assert cache.get("a", "none") == "none"
        assert cache.add("a", 1, timeout=timeout)
        assert not cache.has_key("a")
    cache.set("a", b"\x00\xff", timeout=10**8)
    assert cache.get("a") == b"\x00\xff"
    with pytest.raises(ConfigError, match="ttl is inf"):
        cache.set("a", 2, timeout=float("inf"))
    assert cache.get("a") == b"\x00\xff"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"serializer": "no.such.module"}, "can't be imported"),
        ({"serializer": "builtins.dict"}, "has no dumps and loads"),
        ({"name": 7}, "name is 7: it must be text"),
        ({"name": "cache/more"}, "it must be text without /"),
        ({"tokn": "x"}, "there is no option 'tokn'"),
    ],
)
def test_cache_with_a_bad_option_is_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Cache("http://127.0.0.1:1", {"OPTIONS": options})
