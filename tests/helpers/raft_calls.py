"""Each public method of `Raft`: how it is called, and with which wrong arguments."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from io import BytesIO
from typing import Any, Final, TypeAlias

from syncline import ChangeType, Config, OnceKey, Raft
from syncline.errors import ConfigError
from tests.helpers.node_cluster import Listing

__all__ = ["AFTER_END", "CALLS", "VIEWS", "WRONG", "Call", "begin"]

Call: TypeAlias = Callable[[Raft[Any]], Any]

CALLS: Final[dict[str, Call]] = {
    "add_learner": lambda raft: raft.add_learner("g", "127.0.0.1:9"),
    "add_voter": lambda raft: raft.add_voter("g", "127.0.0.1:9"),
    "answer_asks": lambda raft: raft.answer_asks(bytes),
    "apply": lambda raft: raft.apply(b"x"),
    "apply_many": lambda raft: raft.apply_many([b"x"]),
    "apply_once": lambda raft: raft.apply_once(b"x", OnceKey(1, 1)),
    "ask_leader": lambda raft: raft.ask_leader(b"x"),
    "barrier": lambda raft: raft.barrier(),
    "change_membership": lambda raft: raft.change_membership([(ChangeType.REMOVE_NODE, "a")]),
    "close": lambda raft: raft.close(),
    "demote": lambda raft: raft.demote("a"),
    "end_session": lambda raft: raft.end_session(1),
    "events": lambda raft: raft.events(),
    "every": lambda raft: raft.every("5m", print),
    "failed": lambda raft: raft.failed(),
    "finalize_upgrade": lambda raft: raft.finalize_upgrade(),
    "hint": lambda raft: raft.hint(5, "127.0.0.1:9"),
    "hold_upgrade": lambda raft: raft.hold_upgrade(),
    "leadership": lambda raft: raft.leadership(),
    "open_session": lambda raft: raft.open_session(),
    "promote": lambda raft: raft.promote("a"),
    "reach_level": lambda raft: raft.reach_level(9),
    "reach_machine_version": lambda raft: raft.reach_machine_version(9),
    "read": lambda raft: raft.read(lambda: 1),
    "read_index": lambda raft: raft.read_index(),
    "reload": lambda raft: raft.reload(raft.config),
    "remove": lambda raft: raft.remove("a"),
    "replace_member": lambda raft: raft.replace_member(5, "g", "127.0.0.1:9"),
    "restore": lambda raft: raft.restore(BytesIO(b"")),
    "session": lambda raft: raft.session(),
    "snapshot": lambda raft: raft.snapshot(),
    "transfer_leadership": lambda raft: raft.transfer_leadership(),
    "until_stopped": lambda raft: raft.until_stopped(),
    "update_member": lambda raft: raft.update_member("a", address="127.0.0.1:9"),
    "verify_leader": lambda raft: raft.verify_leader(),
}
"""With sound arguments."""

VIEWS: Final = ("membership", "stats", "timings", "peers", "upgrade_status")
"""What there is to know: they change nothing, and answer everywhere and always."""

AFTER_END: Final = ("answer_asks", "close", "hint", "events")
"""Methods that a node that has stopped takes: they have nothing left to do."""

FSM: Final = Listing

CONFIG: Final = Config(name="z", data_dir="z", listen="127.0.0.1:9", peers={"z": "127.0.0.1:9"})


def _any(raft: object) -> Any:
    """The node, or its class, without types."""
    return raft


WRONG: Final[dict[str, list[tuple[Call, type[Exception]]]]] = {
    "open": [
        (lambda raft: Raft.open(5, FSM()), TypeError),  # type: ignore[arg-type]
        (lambda raft: Raft.open(CONFIG, 5), TypeError),  # type: ignore[arg-type]
        (lambda raft: Raft.open(CONFIG, FSM(), world=5), TypeError),  # type: ignore[arg-type]
    ],
    "join": [
        (lambda raft: Raft.join({}, FSM(), print), TypeError),  # type: ignore[arg-type]
        (lambda raft: Raft.join(CONFIG, None, print), TypeError),  # type: ignore[arg-type]
        (lambda raft: Raft.join(CONFIG, FSM(), print, world=5), TypeError),  # type: ignore[arg-type]
    ],
    "recover": [
        (lambda raft: _any(type(raft)).recover({}, FSM()), TypeError),
        (lambda raft: _any(type(raft)).recover(CONFIG, 5), TypeError),
        (lambda raft: _any(type(raft)).recover(CONFIG, FSM(), compare="data/b"), TypeError),
        (lambda raft: _any(type(raft)).recover(CONFIG, FSM(), dry_run=1), TypeError),
    ],
    "add_learner": [
        (lambda raft: _any(raft).add_learner(5, "127.0.0.1:9"), TypeError),
        (lambda raft: _any(raft).add_learner("g", 9), TypeError),
        (lambda raft: raft.add_learner("g h", "127.0.0.1:9"), ConfigError),
        (lambda raft: raft.add_learner("g", "127.0.0.1:0"), ConfigError),
        (lambda raft: _any(raft).add_learner("g", "127.0.0.1:9", http=5), TypeError),
        (lambda raft: _any(raft).add_learner("g", "127.0.0.1:9", node_id="5"), TypeError),
        (lambda raft: raft.add_learner("g", "127.0.0.1:9", node_id=-1), ConfigError),
        (lambda raft: _any(raft).add_learner("g", "127.0.0.1:9", promote=1), TypeError),
        (lambda raft: raft.add_learner("g", "127.0.0.1:9", expected_index=0), ConfigError),
        (lambda raft: raft.add_learner("g", "127.0.0.1:9", timeout=0), ConfigError),
    ],
    "add_voter": [
        (lambda raft: _any(raft).add_voter(None, "127.0.0.1:9"), TypeError),
        (lambda raft: raft.add_voter("g", "nowhere"), ConfigError),
        (lambda raft: _any(raft).add_voter("g", "127.0.0.1:9", force="yes"), TypeError),
    ],
    "answer_asks": [(lambda raft: _any(raft).answer_asks(5), TypeError)],
    "apply": [
        (lambda raft: _any(raft).apply("text"), TypeError),
        (lambda raft: _any(raft).apply(None), TypeError),
        (lambda raft: _any(raft).apply(b"x", timeout="5"), TypeError),
        (lambda raft: raft.apply(b"x", timeout=float("nan")), ConfigError),
        (lambda raft: _any(raft).apply(b"x", extensions="e"), TypeError),
        (lambda raft: _any(raft).apply(b"x", term="1"), TypeError),
        (lambda raft: raft.apply(b"x", term=-1), ConfigError),
        (lambda raft: _any(raft).apply(b"x", frees_space=1), TypeError),
    ],
    "apply_many": [
        (lambda raft: _any(raft).apply_many(b"xy"), TypeError),
        (lambda raft: _any(raft).apply_many([b"x", "y"]), TypeError),
        (lambda raft: raft.apply_many([b"x"], timeout=0), ConfigError),
    ],
    "apply_once": [
        (lambda raft: _any(raft).apply_once(b"x", "key"), TypeError),
        (lambda raft: _any(raft).apply_once("x", OnceKey(1, 1)), TypeError),
        (lambda raft: raft.apply_once(b"x", OnceKey(1, -1)), ConfigError),
        (lambda raft: _any(raft).apply_once(b"x", OnceKey(1, 1), frees_space=1), TypeError),
        (lambda raft: _any(raft).apply_once(b"x", OnceKey(1, 1), fingerprint="f"), TypeError),
    ],
    "ask_leader": [
        (lambda raft: _any(raft).ask_leader("x"), TypeError),
        (lambda raft: raft.ask_leader(b"x", timeout=-1), ConfigError),
    ],
    "change_membership": [
        (lambda raft: _any(raft).change_membership("ab"), TypeError),
        (lambda raft: _any(raft).change_membership([("REMOVE", "a")]), TypeError),
        (lambda raft: _any(raft).change_membership([(ChangeType.REMOVE_NODE, "a")], force=1), TypeError),
    ],
    "demote": [(lambda raft: _any(raft).demote(5.0), TypeError), (lambda raft: raft.demote(0), ConfigError)],
    "end_session": [
        (lambda raft: _any(raft).end_session("1"), TypeError),
        (lambda raft: raft.end_session(0), ConfigError),
        (lambda raft: _any(raft).end_session(1, timeout=None), TypeError),
    ],
    "events": [(lambda raft: _any(raft).events("LeaderChanged"), TypeError)],
    "every": [
        (lambda raft: _any(raft).every(None, print), TypeError),
        (lambda raft: raft.every("soon", print), ConfigError),
        (lambda raft: _any(raft).every("5m", "job"), TypeError),
        (lambda raft: raft.every("@daily", print, tz="Nowhere"), ConfigError),
    ],
    "hint": [
        (lambda raft: _any(raft).hint("a", "127.0.0.1:9"), TypeError),
        (lambda raft: raft.hint(5, "127.0.0.1"), ConfigError),
    ],
    "promote": [(lambda raft: _any(raft).promote(None), TypeError), (lambda raft: raft.promote("a b"), ConfigError)],
    "reach_level": [
        (lambda raft: _any(raft).reach_level("2"), TypeError),
        (lambda raft: _any(raft).reach_level(2, timeout="1"), TypeError),
    ],
    "reach_machine_version": [
        (lambda raft: _any(raft).reach_machine_version("2"), TypeError),
        (lambda raft: _any(raft).reach_machine_version(2, timeout="1"), TypeError),
    ],
    "restore": [
        (lambda raft: _any(raft).restore("a.snap"), TypeError),
        (lambda raft: _any(raft).restore(BytesIO(b""), trial=5), TypeError),
        (lambda raft: _any(raft).restore(BytesIO(b""), timeout="1"), TypeError),
    ],
    "read": [
        (lambda raft: _any(raft).read(5), TypeError),
        (lambda raft: raft.read(list, timeout=0), ConfigError),
        (lambda raft: _any(raft).read(list, stale="no"), TypeError),
    ],
    "reload": [(lambda raft: _any(raft).reload({}), TypeError), (lambda raft: raft.reload(CONFIG), ConfigError)],
    "remove": [
        (lambda raft: _any(raft).remove(b"a"), TypeError),
        (lambda raft: raft.remove("a", expected_index=-1), ConfigError),
    ],
    "replace_member": [
        (lambda raft: _any(raft).replace_member(None, "g", "127.0.0.1:9"), TypeError),
        (lambda raft: _any(raft).replace_member("a", 5, "127.0.0.1:9"), TypeError),
        (lambda raft: raft.replace_member("a", "a", "127.0.0.1:9"), ConfigError),
        (lambda raft: raft.replace_member("a", "g", "*:9"), ConfigError),
        (lambda raft: _any(raft).replace_member("a", "g", "127.0.0.1:9", node_id=1.0), TypeError),
        (lambda raft: _any(raft).replace_member("a", "g", "127.0.0.1:9", force=None), TypeError),
    ],
    "update_member": [
        (lambda raft: _any(raft).update_member("a", address=9), TypeError),
        (lambda raft: raft.update_member("a", address="0.0.0.0:9"), ConfigError),
    ],
    "barrier": [(lambda raft: raft.barrier(timeout=0), ConfigError)],
    "finalize_upgrade": [(lambda raft: _any(raft).finalize_upgrade(timeout="x"), TypeError)],
    "hold_upgrade": [(lambda raft: raft.hold_upgrade(timeout=4000), ConfigError)],
    "leadership": [(lambda raft: _any(raft).leadership(timeout=True), TypeError)],
    "open_session": [(lambda raft: raft.open_session(timeout=0), ConfigError)],
    "read_index": [(lambda raft: _any(raft).read_index(timeout="5"), TypeError)],
    "session": [(lambda raft: raft.session(timeout=-5), ConfigError)],
    "snapshot": [(lambda raft: _any(raft).snapshot(timeout=None), TypeError)],
    "transfer_leadership": [
        (lambda raft: _any(raft).transfer_leadership(1.5), TypeError),
        (lambda raft: raft.transfer_leadership(timeout=0), ConfigError),
    ],
    "verify_leader": [(lambda raft: raft.verify_leader(timeout=-1), ConfigError)],
}
"""Calls with wrong arguments, and what they raise."""


def begin(answer: Any) -> object:
    """Begin what a call has returned, up to its first wait, without a loop. What it raises is raised here."""
    if isinstance(answer, AbstractAsyncContextManager) and not hasattr(answer, "send"):
        answer = answer.__aenter__()
    if hasattr(answer, "send"):
        try:
            return answer.send(None)
        except StopIteration as done:
            return done.value
        finally:
            answer.close()
    return answer
