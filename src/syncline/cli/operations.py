"""The commands `txn`, `incr` and `compact`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from syncline.cli.common import Context, client_command, key_bytes, make_client
from syncline.cli.completing import complete_keys
from syncline.cli.exits import EXIT_CONFLICT, Told
from syncline.cli.output import json_key, print_json, print_line, shown
from syncline.cli.streams import acknowledged
from syncline.cli.txn_text import MAX_TEXT_BYTES, TxnText, TxnTextError, parse_txn
from syncline.client import (
    DeleteOp,
    DeletePrefixOp,
    DeleteRangeOp,
    GetOp,
    IncrementOp,
    KeyInfo,
    ListOp,
    Operation,
    OperationResult,
    PutOp,
    TouchOp,
    TxnOp,
)
from syncline.platform.texts import counted

__all__ = ["compact", "increment", "txn"]


@click.command("txn", short_help="Carry out a transaction that stands on standard input.")
@client_command
@click.option("--file", "path", type=click.Path(dir_okay=False), help="Read it from a file.  [default: standard input]")
async def txn(context: Context, *, path: str | None) -> None:
    """Carry out a transaction: if all compares hold `then`, else `else`, in one revision or not at all.

    \b
    One compare or operation a line:
      if mod(draft) == 3
      if value(state) == "in review"
      then put state published
      then del draft
      else get state

    \b
    Compares: mod(KEY), create(KEY), version(KEY), value(KEY), lease(KEY) with ==, !=, < or >. In place of KEY,
    `prefix PREFIX` or `range START END`: for each of these keys.
    Operations: put KEY VALUE [lease ID | ttl TIME] [prev], del KEY [prev], del prefix PREFIX [prev],
    del range START END [prev], get KEY [rev N], list PREFIX [limit N] [values] [rev N], incr KEY [BY] [prev],
    touch KEY TIME. Words with spaces stand in double quotes.

    Exit status 6 if the compares did not hold, whether or not there was an `else`.
    """
    text = _read(path)
    async with make_client(context) as client:
        result = await client.txn(text.compare, text.then, text.else_)
    branch = text.then if result.succeeded else text.else_
    with acknowledged():
        if context.as_json:
            results = [_json_result(one) for one in result.results]
            print_json({"succeeded": result.succeeded, "revision": result.revision, "results": results})
        else:
            print_line(f"{'succeeded' if result.succeeded else 'compares did not hold'}, revision {result.revision}")
            for operation, one in zip(branch, result.results, strict=True):
                _print_result(operation, one)
    if not result.succeeded:
        raise Told(EXIT_CONFLICT)


@click.command("incr", short_help="Add to the number that is a key's value.")
@client_command
@click.argument("key", shell_complete=complete_keys)
@click.option("--by", type=int, default=1, show_default=True, help="What is added; it may be negative.")
@click.option("--initial", type=int, default=0, show_default=True, help="What an absent key counts as.")
async def increment(context: Context, *, key: str, by: int, initial: int) -> None:
    """Add to the decimal number that is a key's value, and print the sum."""
    name = key_bytes(key)
    async with make_client(context) as client:
        number = await client.increment(name, by, initial=initial)
    with acknowledged():
        print_json({**json_key("key", name), "value": number}) if context.as_json else print_line(str(number))


@click.command("compact", short_help="Give up old revisions.")
@client_command
@click.argument("revision", type=click.IntRange(min=1))
async def compact(context: Context, *, revision: int) -> None:
    """Make REVISION the oldest one that can be read. The history before it is given up on every node.

    The server does this by itself too: it keeps the last 100,000 revisions or 64 MiB of older versions, whichever is
    less.
    """
    async with make_client(context) as client:
        oldest = (await client.compact(revision)).oldest
    with acknowledged():
        print_json({"oldest": oldest}) if context.as_json else print_line(f"oldest revision {oldest}")


def _read(path: str | None) -> TxnText:
    if path is None and sys.stdin.isatty():
        raise click.UsageError("pipe the transaction in, or name a file with --file")
    try:
        if path is None or path == "-":
            data = sys.stdin.buffer.read(MAX_TEXT_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_TEXT_BYTES + 1)
        return parse_txn(data)
    except OSError as error:
        raise click.UsageError(f"can't read {path or 'standard input'}: {error.strerror}") from error
    except TxnTextError as error:
        raise click.UsageError(f"{path or 'standard input'}: {error}") from error


# --- results for people


def _print_result(operation: Operation, result: OperationResult) -> None:
    name = _name(operation)
    match operation:
        case PutOp() | TouchOp():
            print_line(f"{name}: revision {result.revision}" + (f", lease {result.lease}" if result.lease else ""))
        case DeleteOp() | DeletePrefixOp() | DeleteRangeOp():
            print_line(f"{name}: {result.deleted} deleted")
        case GetOp():
            print_line(f"{name}: {shown(result.value) if result.found else 'no such key'}")
        case IncrementOp():
            print_line(f"{name}: {result.number}")
        case ListOp():
            print_line(f"{name}: {len(result.items)} of {counted(result.count, 'key')}")
            _print_items(result.items)
        case TxnOp():
            raise AssertionError("the text form has no nested transactions")
    if result.previous:
        print_line("  before:")
        _print_items(result.previous)


def _name(operation: Operation) -> str:
    match operation:
        case PutOp():
            return f"put {shown(operation.key)}"
        case DeleteOp():
            return f"del {shown(operation.key)}"
        case DeletePrefixOp():
            return f"del prefix {shown(operation.prefix)}"
        case DeleteRangeOp():
            return f"del range {shown(operation.start)} {shown(operation.end or b'')}"
        case GetOp():
            return f"get {shown(operation.key)}"
        case ListOp():
            start = operation.start if operation.prefix is None else operation.prefix
            return f"list {shown(start or b'')}"
        case IncrementOp():
            return f"incr {shown(operation.key)}"
        case TouchOp():
            return f"touch {shown(operation.key)}"
        case TxnOp():
            return "txn"


def _print_items(items: Sequence[KeyInfo]) -> None:
    for item in items:
        value = "" if item.value is None else "\t" + shown(item.value)
        print_line(f"  {shown(item.key)}{value}")


# --- results as JSON


def _json_result(result: OperationResult) -> dict[str, object]:
    """The fields that belong to the operation, as the HTTP interface names them."""
    fields: dict[str, object] = {"op": result.op}
    match result.op:
        case "get":
            fields |= {"found": result.found, **json_key("key", result.key)}
            if result.found:
                fields |= {**json_key("value", result.value), "mod_revision": result.mod_revision}
        case "range":
            items = [_json_item(item) for item in result.items]
            fields |= {"keys": items, "count": result.count, "more": result.more}
        case "increment":
            fields |= {"value": result.number, "revision": result.revision}
        case "delete" | "delete_range":
            fields |= {"deleted": result.deleted, "revision": result.revision}
        case _:
            fields |= {"revision": result.revision}
    if result.lease:
        fields["lease"] = result.lease
    if result.previous:
        fields["previous"] = [_json_item(item) for item in result.previous]
    return fields


def _json_item(item: KeyInfo) -> dict[str, object]:
    value = {} if item.value is None else json_key("value", item.value)
    return {**json_key("key", item.key), **value, "mod_revision": item.mod_revision, "version": item.version}
