"""`check_fsm`: check that a state machine keeps the contract that replication needs.

    def test_my_machine() -> None:
        check_fsm(Bank, [b"open alice", b"deposit alice 10", b"withdraw alice 99"])

A state machine that breaks the contract passes every unit test and works on one node, but fails on three: replicas
diverge, or a restart restores another state. So each clause is checked separately, and the report names the first
command at which something differs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar, cast

from syncline.errors import Rejected, RequestFailed, UsageError
from syncline.node.fsm import FSM, BatchingFSM, DurableFSM
from syncline.node.machine import check_view, persist
from syncline.testing.fsm.guard import NotDeterministic, guard_determinism
from syncline.testing.fsm.hash_seeds import PROCESS_TIMEOUT_S, run_task, where_they_part
from syncline.testing.fsm.process import Task, decode
from syncline.testing.fsm.reads import Look, NamedRead, differing, reads_of
from syncline.testing.fsm.run import (
    SHOWN_BYTES,
    WRONG_DIGEST,
    MakeFSM,
    Record,
    answered,
    apply,
    bytes_differ,
    call_of,
    check_command,
    check_commands,
    check_maker,
    entry_of,
    made,
    own_digest,
    persisted,
    plain,
    record,
    restored,
    shown_command,
    snapshot_bytes,
    state_digest,
)

M = TypeVar("M", bound=FSM[object])

__all__ = ["HASH_SEEDS", "FSMProblem", "check_fsm"]

HASH_SEEDS: Final = (1, 2)
"""`PYTHONHASHSEED` of the other processes: each orders sets of strings differently."""

SORT: Final = (
    "sets of texts and hash() differ from process to process: sort a set before its order matters\n"
    "  the time zone differs too: give each datetime a zone, such as datetime.UTC"
)

BESIDE: Final = 10
"""Commands that are applied while a view waits to be written, and after a restore."""

VIEWS: Final = 50
"""Indices at which views are checked, at least: each takes two restores and twice `BESIDE` commands."""


class FSMProblem(AssertionError):
    """The contract is broken. `clause` is the broken clause, `index` the number of the command (from 1; 0: before the
    first), `command` that command, and `difference` the observation.
    """

    def __init__(self, clause: str, index: int, commands: Sequence[bytes], difference: str) -> None:
        self.clause = clause
        self.index = index
        self.command: bytes = commands[index - 1] if index else b""
        self.difference = difference
        given = commands.given if isinstance(commands, _Commands) else len(commands)
        number, again = (index, "") if index <= given else (index - given, ", the second time that it is applied")
        at = f"command {number} of {given}, {_shown(commands, index)}{again}" if index else "the empty state"
        super().__init__(f"{clause}\n  first seen at {at}\n{difference}")


class _Commands(list[bytes]):
    """The commands of a test, and perhaps some of them again, to go on behind a snapshot of the last state."""

    def __init__(self, commands: Iterable[bytes], fsm: FSM[object]) -> None:
        super().__init__(commands)
        self.given = len(self)
        """How many are the test's own."""
        self._fsm = fsm

    def shown(self, command: bytes) -> str:
        return shown_command(self._fsm, command)


def check_fsm(
    machine: Callable[[], M],
    commands: Iterable[bytes],
    *,
    reads: Iterable[Callable[[M], object]] = (),
    hash_seeds: Sequence[int] = HASH_SEEDS,
    processes: bool = True,
) -> None:
    """Check a state machine with these commands, in this order.

    - The same commands give the same answers and the same state: in a second machine of this process, and in other
      processes with other hash seeds. The line at which two of these part is reported.
    - A refused command (`Rejected`) leaves the state as it was.
    - An answer stays as it is while later commands are applied: it shares nothing with the state.
    - A snapshot at every index restores the state, in a new machine and in one that holds another state; and later
      commands give the same answers. Behind the last index the commands are applied again, up to one that raises.
    - A read changes nothing, and has the same result after a restore. `reads` are functions of the machine. Queries of
      a `Machine` that need no argument are checked without being given.
    - A view shows the state at which it was taken, though commands are applied before and while it is written.
    - `apply_batch`, if there is one, does the same as `apply`.
    - No command reads the clock, random numbers, files or the environment (`guard_determinism`).
    - `digest`, if there is one, returns 1 to 64 bytes, equal for equal states and different for different ones. So it
      does after a restore and in another process.

    `machine` is the class, or a function without arguments that makes one; the other processes import it by its name
    (`processes=False` does without them). States are compared by the bytes of their snapshots, so a snapshot must be
    written in a fixed order: sort collections without an order.

        check_fsm(Bank, [b"open alice", b"deposit alice 10"], reads=[lambda bank: bank.balance("alice")])

    Raises:
        FSMProblem: for the first broken clause.
        TypeError: `machine` can't be called or makes no state machine, a command is no bytes, or a read no function.
        StorageError: `snapshot` returns no view.
        Exception: what `apply` raises, with a note of the command.
        UsageError: another process can't import `machine`.
    """
    check_maker(machine)
    check_commands(commands)
    first = made(machine)
    looks = reads_of(first, cast("Iterable[Look]", reads))  # of machines that `machine` has made
    commands = _Commands(map(check_command, commands), first)
    expected = record(made(machine), commands)
    _check_determinism(machine, commands, expected)
    if processes:
        _check_processes(machine, commands, expected, hash_seeds)
    _check_refusals(machine, commands)
    repeated, results = _repeat(machine, commands, expected)
    _check_answers(machine, repeated)
    _check_snapshots(machine, repeated, results, looks)
    _check_views(machine, repeated)
    _check_batches(machine, commands, expected)
    _check_digests(machine, commands, expected)
    _check_guarded(machine, commands)


def _check_determinism(machine: MakeFSM, commands: Sequence[bytes], expected: Sequence[Record]) -> None:
    _compare(
        "not deterministic: a second machine in the same process differs",
        commands,
        expected,
        record(machine(), commands),
    )


def _check_guarded(machine: MakeFSM, commands: Sequence[bytes]) -> None:
    """What differs on other machines may be equal here: a time of day, the environment."""
    fsm = machine()
    for number, command in enumerate(commands, 1):
        try:
            with guard_determinism(files=not isinstance(fsm, DurableFSM)):
                apply(fsm, number, command)
        except NotDeterministic as found:
            clause = "not deterministic: a command reads what differs from node to node"
            raise FSMProblem(clause, number, commands, "  " + "\n  ".join(found.findings)) from None


def _compare(clause: str, commands: Sequence[bytes], expected: Sequence[Record], got: Sequence[Record]) -> None:
    for number, (here, there) in enumerate(zip(expected, got, strict=True), 1):
        if here.answer != there.answer:
            raise FSMProblem(
                clause, number, commands, f"  one answered:    {here.answer}\n  another answered: {there.answer}"
            )
        if here.state != there.state:
            raise FSMProblem(clause, number, commands, "  the answers are equal, the states (as snapshots) are not")
        if here.digest != there.digest:
            difference = f"  one `digest`: {here.digest}\n  another:      {there.digest}"
            raise FSMProblem(clause, number, commands, difference)


def _check_processes(
    machine: MakeFSM, commands: Sequence[bytes], expected: Sequence[Record], hash_seeds: Sequence[int]
) -> None:
    module, name = sys.modules[machine.__module__], getattr(machine, "__qualname__", "<")
    if "<" in name:
        raise UsageError(f"{machine!r} can't be imported by another process: define it at the top of a module")
    file = getattr(module, "__file__", None) or ""

    def task(traced: int = 0) -> Task:
        return Task(machine.__module__, file, name, sys.path, list(commands), traced)

    for seed in hash_seeds:
        done = run_task(task(), seed)
        if done.returncode:
            raise FSMProblem("it fails in another process", 0, commands, done.stderr.decode(errors="replace"))
        clause = f"not deterministic: another process (PYTHONHASHSEED={seed}) differs"
        records = decode(done.stdout)
        try:
            _compare(clause, commands, expected, records)
        except FSMProblem as problem:
            place = where_they_part(task, records, seed)
            if not place:
                raise
            difference = f"{problem.difference}\n  two processes part at {place}\n  {SORT}"
            raise FSMProblem(clause, problem.index, commands, difference) from None


def _check_refusals(machine: MakeFSM, commands: Sequence[bytes]) -> None:
    fsm = machine()
    for number, command in enumerate(commands, 1):
        before = snapshot_bytes(fsm)
        refusal = answered(fsm, number, command)
        if isinstance(refusal, Rejected):
            after = snapshot_bytes(fsm)
            if before != after:
                clause = f"a refused command changed the state ({plain(refusal)})"
                raise FSMProblem(clause, number, commands, bytes_differ(before, after)) from refusal


def _check_answers(machine: MakeFSM, commands: Sequence[bytes]) -> None:
    """Check that answers do not change later: a caller reads them while further commands are applied."""
    fsm = machine()
    kept: list[tuple[object, str]] = []
    for number, command in enumerate(commands, 1):
        answer = answered(fsm, number, command)
        if isinstance(answer, Iterator):
            clause = f"an answer is a {type(answer).__name__}, which reads the state when its caller takes its parts"
            raise FSMProblem(clause, number, commands, "  return a list of them")
        _check_fits(fsm, answer, number, commands)
        kept.append((answer, plain(answer)))
        _check_kept(kept, max(0, number - BESIDE), number, commands)
    _check_kept(kept, 0, len(commands), commands)


def _check_fits(fsm: FSM[object], answer: object, number: int, commands: Sequence[bytes]) -> None:
    """Check that the caller of a typed machine's command can read the answer."""
    called = call_of(fsm, commands[number - 1])
    if called is not None and isinstance(answer, bytes):
        try:
            called[0].answer(answer)
        except RequestFailed as error:
            raise FSMProblem("the caller can't read an answer", number, commands, f"  {error}") from error


def _check_kept(kept: Sequence[tuple[object, str]], first: int, number: int, commands: Sequence[bytes]) -> None:
    """Compare the answers behind the first ones with what they were; `number` is the command applied last."""
    for at, (answer, before) in enumerate(kept[first:], first + 1):
        now = plain(answer)
        if now != before:
            clause = "an answer changes while later commands are applied: it shares objects with the state"
            where = f"  the answer of command {at}, {_shown(commands, at)}: return a copy"
            raise FSMProblem(clause, number, commands, f"{where}\n  it was: {before}\n  it is:  {now}")


def _shown(commands: Sequence[bytes], number: int) -> str:
    command = commands[number - 1]
    return commands.shown(command) if isinstance(commands, _Commands) else repr(command[:SHOWN_BYTES])


def _repeat(
    machine: MakeFSM, commands: Sequence[bytes], expected: Sequence[Record]
) -> tuple[_Commands, Sequence[Record]]:
    """The commands and the first of them again, up to one that raises; and the results."""
    repeated, results = _Commands(commands, machine()), list(expected)
    fsm = machine()
    for number, command in enumerate(commands, 1):
        apply(fsm, number, command)
    for number, command in enumerate(commands[:BESIDE], len(commands) + 1):
        try:
            results.append(Record(apply(fsm, number, command), state_digest(fsm)))
        except Exception:  # noqa: BLE001 - the test did not ask for this command twice
            break
        repeated.append(command)
    return repeated, results


def _check_snapshots(
    machine: MakeFSM, commands: _Commands, expected: Sequence[Record], reads: Sequence[NamedRead]
) -> None:
    fsm, used = machine(), machine()
    for number in range(commands.given + 1):
        if number:
            apply(fsm, number, commands[number - 1])
        snapshot = snapshot_bytes(fsm)
        seen = _looked(fsm, reads, snapshot, number, commands)
        for how, other in (("a new machine", machine()), ("a machine that held another state", used)):
            try:
                restored(other, snapshot)
            except Exception as error:
                clause = f"a snapshot can't be restored in {how}"
                raise FSMProblem(clause, number, commands, f"  {error!r}\n  {snapshot[:SHOWN_BYTES]!r}") from error
            came_back = snapshot_bytes(other)
            if came_back != snapshot:
                clause = f"a snapshot does not bring the state back in {how}"
                raise FSMProblem(clause, number, commands, bytes_differ(snapshot, came_back))
            if difference := differing(reads, seen, _looked(other, reads, snapshot, number, commands)):
                clause = f"after the restore of a snapshot in {how} a read has another result"
                raise FSMProblem(clause, number, commands, difference)
            _go_on(other, number, commands, expected, how)


def _looked(
    fsm: FSM[object], reads: Sequence[NamedRead], before: bytes, number: int, commands: Sequence[bytes]
) -> list[str]:
    """The results of all reads, none of which may change the state; `before` is its snapshot."""
    results: list[str] = []
    for read in reads:
        results.append(read.result(fsm))
        after = snapshot_bytes(fsm)
        if after != before:
            raise FSMProblem(
                f"a read changed the state ({read.name}): it is not replicated, so it changes one node alone",
                number,
                commands,
                bytes_differ(before, after),
            )
    return results


def _go_on(fsm: FSM[object], number: int, commands: Sequence[bytes], expected: Sequence[Record], how: str) -> None:
    """Apply the next commands to a restored machine."""
    last = min(len(commands), number + BESIDE)
    for later in range(number + 1, last + 1):
        try:
            answer = apply(fsm, later, commands[later - 1])
        except Exception as error:
            clause = f"after the restore of a snapshot at {number} in {how} a command raises"
            difference = f"  without restore: {expected[later - 1].answer}\n  with it:         {error!r}"
            raise FSMProblem(clause, later, commands, difference) from error
        if answer != expected[later - 1].answer:
            clause = f"after the restore of a snapshot at {number} in {how} a command is answered differently"
            difference = f"  without restore: {expected[later - 1].answer}\n  with it:         {answer}"
            raise FSMProblem(clause, later, commands, difference)
    if last > number and state_digest(fsm) != expected[last - 1].state:
        clause = f"after the restore of a snapshot at {number} in {how} the same commands lead to another state"
        raise FSMProblem(clause, last, commands, "  the answers are equal, the states (as snapshots) are not")


def _check_views(machine: MakeFSM, commands: _Commands) -> None:
    fsm = machine()
    step = min(BESIDE, 1 + commands.given // VIEWS)
    for number in range(0, commands.given + 1, step):
        for done in range(max(1, number - step + 1), number + 1):
            apply(fsm, done, commands[done - 1])
        snapshot = snapshot_bytes(fsm)
        later = list(enumerate(commands[number : number + BESIDE], number + 1))
        for how, written in (("before", _written_after), ("while", _written_beside)):
            shown = written(restored(machine(), snapshot), later, number, commands)
            if shown != snapshot:
                clause = f"a view shows what was applied {how} it was written"
                raise FSMProblem(clause, number, commands, bytes_differ(snapshot, shown))


def _written_after(
    fsm: FSM[object], later: Sequence[tuple[int, bytes]], number: int, commands: Sequence[bytes]
) -> bytes:
    view = check_view(fsm, fsm.snapshot())
    for later_number, command in later:
        apply(fsm, later_number, command)
    try:
        return persisted(view)
    except Exception as error:
        raise FSMProblem("a view can't be written after further commands", number, commands, f"  {error!r}") from error


class _Gate:
    """A sink whose first write waits until it is opened, so that applies come between the parts of one snapshot."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.reached = threading.Event()
        self.opened = threading.Event()

    def write(self, data: bytes) -> None:
        self.data += data
        self.reached.set()
        self.opened.wait(PROCESS_TIMEOUT_S)


def _written_beside(
    fsm: FSM[object], later: Sequence[tuple[int, bytes]], number: int, commands: Sequence[bytes]
) -> bytes:
    view, gate = check_view(fsm, fsm.snapshot()), _Gate()
    errors: list[Exception] = []

    def write() -> None:
        try:
            persist(view, gate)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported below
            errors.append(error)
        finally:
            gate.reached.set()

    thread = threading.Thread(target=write)
    thread.start()
    gate.reached.wait(PROCESS_TIMEOUT_S)
    try:
        for later_number, command in later:
            apply(fsm, later_number, command)
    finally:
        gate.opened.set()
        thread.join()
        view.release()
    if errors:
        raise FSMProblem("a view can't be written beside `apply`", number, commands, f"  {errors[0]!r}") from errors[0]
    return bytes(gate.data)


def _check_batches(machine: MakeFSM, commands: Sequence[bytes], expected: Sequence[Record]) -> None:
    fsm = machine()
    if not isinstance(fsm, BatchingFSM) or not commands:
        return
    for size in (1, 3, len(commands)):
        batching = machine()
        assert isinstance(batching, BatchingFSM)
        answers: list[str] = []
        for start in range(0, len(commands), size):
            entries = [entry_of(n, command) for n, command in enumerate(commands[start : start + size], start + 1)]
            answers += map(plain, batching.apply_batch(entries))
        for number, (answer, wanted) in enumerate(zip(answers, expected, strict=True), 1):
            if answer != wanted.answer:
                difference = f"  apply:       {wanted.answer}\n  apply_batch: {answer}"
                raise FSMProblem("`apply_batch` answers differently", number, commands, difference)
        if state_digest(batching) != expected[-1].state:
            raise FSMProblem(f"`apply_batch` of {size} leads to another state", len(commands), commands, "")


def _check_digests(machine: MakeFSM, commands: Sequence[bytes], expected: Sequence[Record]) -> None:
    """Check that equal states have equal digests and different states different ones: nodes whose digests differ
    stop.
    """
    by_state: dict[str, str] = {}
    by_digest: dict[str, str] = {}
    fsm = machine()
    for number, (command, record_) in enumerate(zip(commands, expected, strict=True), 1):
        apply(fsm, number, command)
        digest = record_.digest
        if digest.startswith(WRONG_DIGEST):
            raise FSMProblem(f"`digest` returns {digest}", number, commands, "")
        if digest and by_state.setdefault(record_.state, digest) != digest:
            clause = "equal states (as snapshots) have different digests"
            raise FSMProblem(clause, number, commands, f"  {by_state[record_.state]}\n  {digest}")
        if digest and by_digest.setdefault(digest, record_.state) != record_.state:
            raise FSMProblem("different states (as snapshots) have one digest", number, commands, f"  {digest}")
        came_back = own_digest(restored(machine(), snapshot_bytes(fsm)))
        if came_back != digest:
            clause = "a restored snapshot has another digest than the state that it was taken of"
            raise FSMProblem(clause, number, commands, f"  state:    {digest}\n  restored: {came_back}")
