"""Operations as text, one line each, for the analysis of a failure."""

from __future__ import annotations

from collections.abc import Iterable

from syncline.testing.linearizability.history import (
    EXISTS,
    Call,
    CallCompare,
    DeleteCall,
    NotApplied,
    Operation,
    PutCall,
    Ran,
    ReadCall,
    Refused,
    Result,
    Seen,
    Step,
    TxnCall,
    Written,
)

__all__ = ["describe", "describe_all"]

SHOWN_BYTES = 40
"""How much of a key or value is shown."""


def describe_all(operations: Iterable[Operation]) -> str:
    """A table in the order of the calls: time, client, node, request and answer."""
    rows = [_row(operation) for operation in sorted(operations, key=lambda operation: operation.call_s)]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return "\n".join(
        f"  {row[0]:>{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}".rstrip() for row in rows
    )


def describe(operation: Operation) -> str:
    """One operation, without its time: `c1: put k = v -> revision 7`."""
    return f"{operation.client}: {_request(operation.request)} -> {_result(operation.result)}"


def _row(operation: Operation) -> tuple[str, str, str, str]:
    end = "     ..." if operation.return_s is None else f"{operation.return_s:8.3f}"
    what = f"{_request(operation.request)} -> {_result(operation.result)}"
    return f"{operation.call_s:.3f} .. {end} s", operation.client, operation.node, what


def _request(request: Call) -> str:
    if not isinstance(request, TxnCall):
        return _step(request)
    compares = " and ".join(_compare(compare) for compare in request.compares)
    text = (f"if {compares} " if compares else "") + f"do [{_steps(request.then)}]"
    return text + (f" else [{_steps(request.else_)}]" if request.else_ else "")


def _steps(steps: Iterable[Step]) -> str:
    return ", ".join(map(_step, steps))


def _step(step: Step) -> str:
    key = _text(step.key)
    match step:
        case PutCall():
            return f"put {key} = {_text(step.value)}" + _expected(step.expect)
        case DeleteCall():
            return f"delete {key}" + _expected(step.expect)
        case ReadCall():
            bound = "" if step.max_stale_s is None else f" (at most {step.max_stale_s:g} s old)"
            return f"stale read {key}{bound}" if step.stale else f"read {key}"


def _expected(expect: int | None) -> str:
    if expect is None:
        return ""
    if expect == EXISTS:
        return " where it exists"
    return f" where it is at revision {expect}" if expect else " where there is none"


def _compare(compare: CallCompare) -> str:
    sign = "=" if compare.equal else "!="
    if isinstance(compare.operand, int):
        return f"revision of {_text(compare.key)} {sign} {compare.operand}"
    return f"{_text(compare.key)} {sign} {_text(compare.operand)}"


def _result(result: Result | None) -> str:
    match result:
        case None:
            return "nobody knows"
        case Written(revision, existed):
            told = f"revision {revision}" if revision else "done"
            return told if existed is None else f"{told}, {'there was one' if existed else 'there was none'}"
        case Seen(value, mod_revision, revision):
            seen = "no such key" if value is None else _text(value)
            since = f" of revision {mod_revision}" if mod_revision else ""
            return f"{seen}{since}" + (f", store at {revision}" if revision else "")
        case Ran(succeeded, revision, results):
            done = f"{'then' if succeeded else 'else'}: [{'; '.join(map(_result, results))}]"
            return done + (f", revision {revision}" if revision else "")
        case Refused(mod_revision, _):
            return "refused" if mod_revision is None else f"refused: it is at revision {mod_revision}"
        case NotApplied(code):
            return "not applied" + (f" ({code})" if code else "")


def _text(data: bytes) -> str:
    shown = data[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    text = shown if shown.isprintable() and shown and " " not in shown else repr(data[:SHOWN_BYTES])[1:]
    return text + ("…" if len(data) > SHOWN_BYTES else "")
