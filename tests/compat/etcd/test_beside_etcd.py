"""etcdctl on a cluster of ours and on a real etcd, side by side: output, errors and exit codes are the same."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Final

import pytest

from syncline.client import Client
from syncline.testing.process_cluster import ProcessCluster
from tests.compat.etcd.etcdctl import CALL_S

Answer = tuple[int, str, str]
Call = Callable[..., Answer]

pytestmark = pytest.mark.timeout(180)

COMMANDS: Final = (
    "put a 1",
    "put b 2 --prev-kv",
    "put a 3 --prev-kv -w json",
    "put a x --lease=-1",
    "put a x --lease=7b",
    "put a x --ignore-value",
    "put none --ignore-value",
    "get --prefix -w fields p",
    "get --from-key a -w json",
    "get --from-key a --sort-by=MODIFY --order=DESCEND --limit=1",
    "get --from-key a --keys-only --count-only",
    "get a --rev=99999",
    "get a b c",
    "del none",
    "del a --prev-kv -w json",
    "lease timetolive 7b -w json",
    "lease keep-alive 7b --once",
    "lease revoke 7b",
    "lease grant 9000000001",
    "compaction 99999",
    "alarm list",
    "move-leader 7b",
    "member remove 7b",
    "member promote 7b",
    "role add r",
    "role add r",
    "role grant-permission r read foo fop",
    "role get r -w json",
    "role get none",
    "role revoke-permission r none",
    "user add u:p",
    "user grant-role u none",
    "user get u --detail",
    "user delete none",
    "auth enable",
    "user delete u",
    "role delete r",
)

TRANSACTIONS: Final = (
    'value("b") = "2"\n\nput c 1\nget c\n\nget b\n\n',
    'mod("b") < "1"\n\nget b\n\nget --from-key a --limit=1\ndel b --prev-kv\n\n',
    "\nput c 1\nput c 2\n\n\n",
    "\nget b --rev=99999\n\n\n",
    "\nget none --rev={revision}\nput d 1\nget none --rev={revision}\n\n\n",
)

_DIFFERS: Final = re.compile(
    r'"(cluster_id|member_id|raft_term|ts|target)":("[^"]*"|\d+)|"(ClusterID|MemberID|RaftTerm)" : \d+'
)
"""Ids, terms and times."""


def caller(etcdctl: str, endpoint: str) -> Call:
    def call(*arguments: str, given: str = "") -> Answer:
        ran = subprocess.run(
            [etcdctl, "--endpoints", endpoint, *arguments],
            env={"ETCDCTL_API": "3"},
            input=given,
            capture_output=True,
            text=True,
            timeout=CALL_S,
            check=False,
        )
        return ran.returncode, _DIFFERS.sub("", ran.stdout), _DIFFERS.sub("", ran.stderr)

    return call


def revision_of(call: Call) -> int:
    return int(re.findall(r'"revision":(\d+)', call("get", "none", "-w", "json")[1])[0])


@pytest.fixture
def both(etcdctl: str, etcd: str, kv: Client, syncline_cluster: ProcessCluster) -> tuple[Call, Call]:
    """etcdctl on the real etcd, and on ours. Both are empty, and at one revision."""
    del kv
    theirs, ours = caller(etcdctl, etcd), caller(etcdctl, syncline_cluster.endpoints[syncline_cluster.leader()])
    theirs("del", "--from-key", "")
    calls = sorted((theirs, ours), key=revision_of)
    while revision_of(calls[0]) < revision_of(calls[1]):
        calls[0]("put", "none", "1")
    for call in calls:
        call("put", "none", "1")
        call("del", "none")
    return theirs, ours


def test_etcdctl_answers_are_those_of_a_real_etcd(both: tuple[Call, Call]) -> None:
    theirs, ours = both
    for command in COMMANDS:
        assert ours(*command.split()) == theirs(*command.split()), command


def test_etcdctl_transactions_are_those_of_a_real_etcd(both: tuple[Call, Call]) -> None:
    theirs, ours = both
    revision = revision_of(theirs)
    for call in both:
        call("put", "b", "2")
    for text in TRANSACTIONS:
        given = text.format(revision=revision)
        for form in ("simple", "json"):
            assert ours("txn", "-w", form, given=given) == theirs("txn", "-w", form, given=given), text
