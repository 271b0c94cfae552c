"""The pages for users of other libraries: complete, and each name of ours exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import syncline
from syncline import Config, errors, machines, testing
from syncline.cli.main import _COMMANDS
from tests.helpers.doc_examples import PYTHON
from tests.helpers.ports import free_block

ROOT: Final = Path(__file__).resolve().parents[2]
HASHICORP: Final = (ROOT / "docs" / "coming-from-hashicorp-raft.md").read_text()
PYSYNCOBJ: Final = (ROOT / "docs" / "coming-from-pysyncobj.md").read_text()

CODE: Final = re.compile(r"`([^`]+)`")
METRIC: Final = re.compile(r"\"(syncline_[a-z_]+)\"")

# What there is in hashicorp/raft 1.7.3, by section of the page: from its documentation and its code.
HASHICORP_NAMES: Final[dict[str, str]] = {
    "Functions": """
        NewRaft BootstrapCluster RecoverCluster GetConfiguration HasExistingState ValidateConfig DefaultConfig
        ReadConfigJSON ReadPeersJSON EncodeConfiguration DecodeConfiguration NewLogCache NewFileSnapshotStore
        NewFileSnapshotStoreWithLogger NewInmemStore NewInmemSnapshotStore NewDiscardSnapshotStore NewInmemTransport
        NewInmemTransportWithTimeout NewTCPTransport NewTCPTransportWithLogger NewTCPTransportWithConfig
        NewNetworkTransport NewNetworkTransportWithLogger NewNetworkTransportWithConfig NewObserver
        NewInmemCommitTrackingStore MakeCluster MakeClusterNoBootstrap MakeClusterCustom MakeClusterCustomWithErr
        MockFSM MockFSMConfigStore MockSnapshot MockMonotonicLogStore FileSnapTest SuggestedMaxDataSize
    """,
    "Methods": """
        Apply ApplyLog Barrier VerifyLeader AddVoter AddNonvoter DemoteVoter RemoveServer AddPeer RemovePeer
        BootstrapCluster LeadershipTransfer LeadershipTransferToServer Snapshot Restore Shutdown RegisterObserver
        DeregisterObserver LeaderCh Leader LeaderWithID State CurrentTerm LastIndex CommitIndex AppliedIndex
        LastContact String GetConfiguration Stats ReloadConfig ReloadableConfig
    """,
    "Futures": """
        Future.Error IndexFuture.Index ApplyFuture.Response ConfigurationFuture.Configuration SnapshotFuture.Open
        LeadershipTransferFuture
    """,
    "Errors": """
        ErrLeader ErrNotLeader ErrNotVoter ErrLeadershipLost ErrAbortedByRestore ErrRaftShutdown ErrEnqueueTimeout
        ErrNothingNewToSnapshot ErrUnsupportedProtocol ErrCantBootstrap ErrLeadershipTransferInProgress
        ErrIncompatibleLogStore ErrLogNotFound ErrPipelineReplicationNotSupported ErrTransportShutdown
        ErrPipelineShutdown
    """,
    "Interfaces of the state machine": """
        FSM.Apply FSM.Snapshot FSM.Restore FSMSnapshot.Persist FSMSnapshot.Release BatchingFSM.ApplyBatch
        ConfigurationStore.StoreConfiguration NoSnapshotRestoreOnStart Log.Index Log.Term Log.Type Log.Data
        Log.Extensions Log.AppendedAt LogCommand LogNoop LogBarrier LogConfiguration
    """,
    "Storage": """
        LogStore MonotonicLogStore CommitTrackingLogStore StableStore SnapshotStore SnapshotSink LogCache
        FileSnapshotStore raft-boltdb raft-wal waldump verifier
    """,
    "Transport": """
        Transport WithPreVote WithClose WithPeers LoopbackTransport NetworkTransport StreamLayer
        ServerAddressProvider InmemTransport
    """,
    "Settings": """
        ProtocolVersion HeartbeatTimeout ElectionTimeout LeaderLeaseTimeout CommitTimeout MaxAppendEntries
        BatchApplyCh ShutdownOnRemove TrailingLogs SnapshotInterval SnapshotThreshold LocalID NotifyCh LogOutput
        LogLevel Logger NoSnapshotRestoreOnStart PreVoteDisabled NoLegacyTelemetry RestoreCommittedLogs MaxPool
        MaxRPCsInFlight Timeout ServerAddressProvider MsgpackUseNewTimeFormat TimeoutScale
    """,
    "Events": """
        RaftState LeaderObservation PeerObservation RequestVoteRequest RequestPreVoteRequest
        FailedHeartbeatObservation ResumedHeartbeatObservation
    """,
}

# What there is in PySyncObj 0.3.17.
PYSYNCOBJ_NAMES: Final[dict[str, str]] = {
    "Classes and decorators": """
        SyncObj SyncObjConsumer SyncObjConf SyncObjException SyncObjExceptionWrongVer replicated replicated_sync
        FAIL_REASON SERIALIZER_STATE Transport TCPTransport TcpUtility AsyncResult
    """,
    "Methods": """
        destroy destroy_synchronous tick_thread_alive doTick addOnTickCallback removeOnTickCallback waitReady
        waitBinded isReady getCodeVersion setCodeVersion addNodeToCluster removeNodeFromCluster transferLeadership
        isNodeConnected selfNode otherNodes readonlyNodes raftLastApplied raftCommitIndex raftCurrentTerm hasQuorum
        getStatus printStatus forceLogCompaction conf encryptor
    """,
    "Reasons": """
        SUCCESS QUEUE_FULL MISSING_LEADER DISCARDED NOT_LEADER LEADER_CHANGED REQUEST_DENIED
    """,
    "Settings": """
        appendEntriesBatchSizeBytes appendEntriesPeriod appendEntriesUseBatch autoTick autoTickPeriod bindAddress
        bindRetryTime commandsQueueSize commandsWaitLeader connectionRetryTime connectionTimeout deserializer
        dnsCacheTime dnsFailCacheTime dynamicMembershipChange fullDumpFile journalFile leaderFallbackTimeout
        logCompactionBatchSize logCompactionMinEntries logCompactionMinTime logCompactionSplit maxBindRetries
        onCodeVersionChanged onReady onStateChanged password pollerType preferredAddrType raftMaxTimeout
        raftMinTimeout recvBufferSize sendBufferSize serializeChecker serializer useFork
    """,
    "Batteries": """
        ReplCounter ReplList ReplDict ReplSet ReplQueue ReplPriorityQueue ReplLockManager
    """,
}


def sections(text: str) -> dict[str, list[list[str]]]:
    """The tables of a page: the cells of each row, by the heading above."""
    found: dict[str, list[list[str]]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, rest = section.partition("\n")
        lines = [line for line in rest.splitlines() if line.startswith("| ")]
        found[heading] = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
    return found


def rows(text: str) -> Iterator[tuple[str, list[str]]]:
    for heading, cells in sections(text).items():
        for row in cells:
            yield heading, row


def exists(name: str) -> bool:
    """Whether it is a public name: `Raft.apply`, `NotLeader`, `syncline.blocking`, or a metric."""
    if name.startswith("syncline_"):
        return any(name in METRIC.findall(path.read_text()) for path in (ROOT / "src/syncline/server").glob("*.py"))
    first, *rest = name.split(".")
    homes: list[Any] = [syncline, errors, testing, machines]
    found = next((getattr(home, first) for home in homes if first in home.__all__), None)
    for part in rest:
        if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
            return False
        found = getattr(found, part, None)
    return found is not None or bool(rest)


PAGES: Final = {
    "hashicorp": (HASHICORP, HASHICORP_NAMES, ("Metrics", "Issues, and the tests that play them")),
    "pysyncobj": (PYSYNCOBJ, PYSYNCOBJ_NAMES, ()),
}
PLACES: Final = [(page, heading) for page, (_, names, _) in PAGES.items() for heading in names]
OURS: Final = sorted(
    {name for text, _, _ in PAGES.values() for _, row in rows(text) for name in CODE.findall(row[1])}
    - {name for name in CODE.findall(HASHICORP) if name.startswith("test_")}
)


@pytest.mark.parametrize(("page", "heading"), PLACES)
def test_docs_of_another_library_list_all_of_it(page: str, heading: str) -> None:
    text, names, _ = PAGES[page]
    listed = [name for row in sections(text)[heading] for name in CODE.findall(row[0])]
    assert sorted(listed) == sorted(names[heading].split())


@pytest.mark.parametrize("page", PAGES)
def test_docs_of_another_library_have_no_unknown_section(page: str) -> None:
    text, names, others = PAGES[page]
    assert {heading for heading, _ in rows(text)} == {*names, *others}


@pytest.mark.parametrize("name", OURS)
def test_docs_of_another_library_name_what_exists(name: str) -> None:
    assert exists(name)


def test_docs_of_another_library_give_a_reason_for_what_is_not_there() -> None:
    for page, (text, _, _) in PAGES.items():
        for heading, row in rows(text):
            if row[1] == "-":
                assert len(row) == 3, (page, heading, row)
                assert row[2], (page, heading, row)


def test_docs_of_another_library_name_commands_that_exist() -> None:
    told = set(re.findall(r"`syncline ([a-z]+)[^`]*`", HASHICORP + PYSYNCOBJ))
    assert told <= set(_COMMANDS)


def test_docs_of_issues_name_tests_that_exist() -> None:
    table = sections(HASHICORP)["Issues, and the tests that play them"]
    default = "tests/simulation/test_published_issues.py"
    named = set()
    for issues, _, test in table:
        assert re.search(r"#\d+", issues), issues
        name, *file = CODE.findall(test)
        named.add(name)
        assert f"def {name}(" in (ROOT / (file[0] if file else default)).read_text(), name
    written = re.findall(r"^def (test_\w+)", (ROOT / default).read_text(), re.MULTILINE)
    told = " ".join(re.findall(r"`(test_\w+)`", HASHICORP))
    assert not [name for name in written if name not in told], "each scenario stands in the table"
    assert named


def config_in(folder: Path) -> Config:
    address = f"127.0.0.1:{free_block(1)}"
    return Config(name="a", data_dir=str(folder), listen=address, peers={"a": address}, election_s=0.2)


async def test_docs_of_another_library_python_runs(tmp_path: Path) -> None:
    for text, answer in ((HASHICORP, 1), (PYSYNCOBJ, 10)):
        names: dict[str, Any] = {"__name__": "docs"}
        for code in PYTHON.findall(text):
            exec(compile(code, "docs", "exec", dont_inherit=True), names)
        assert await names["main"](config_in(tmp_path / str(answer))) == answer
    assert set(names["config_of"](bytes(32)).peers) == {"a", "b", "c"}
