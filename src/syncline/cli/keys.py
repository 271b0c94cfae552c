"""The commands `get`, `put`, `del` and `list`: single keys from the shell."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Final

import click

from syncline.cli.common import TTL, Context, client_command, key_bytes, make_client
from syncline.cli.completing import complete_keys
from syncline.cli.exits import EXIT_NOT_FOUND, Failure
from syncline.cli.output import json_key, json_text, print_bytes, print_json, print_line, shown
from syncline.cli.streams import acknowledged
from syncline.client import DeletePrefixOp, KeyInfo

__all__ = ["delete", "get", "list_keys", "put"]

CONSISTENCY: Final = click.Choice(["linearizable", "leader", "stale"])

REVISION: Final = click.option(
    "--rev", "revision", type=click.IntRange(min=1), help="As it was at this revision.  [default: now]"
)


@click.command("get", short_help="Print a key's value.")
@client_command
@click.argument("key", shell_complete=complete_keys)
@REVISION
@click.option("--consistency", type=CONSISTENCY, help="How fresh the answer must be.  [default: linearizable]")
async def get(context: Context, *, key: str, revision: int | None, consistency: str | None) -> None:
    """Print a key's value, byte for byte.

    Exit status 3 if there is no such key, or was none at the revision.
    """
    name = key_bytes(key)
    async with make_client(context) as client:
        found = await client.get(name, revision=revision, consistency=consistency)
    if found is None:
        raise _no_key(name, context)
    if context.as_json:
        numbers = {"mod_revision": found.mod_revision, "revision": found.revision}
        print_json({**json_key("key", name), **json_key("value", found.value), **numbers})
    else:
        print_bytes(found.value)


@click.command("put", short_help="Write a key.")
@client_command
@click.argument("key", shell_complete=complete_keys)
@click.argument("value", required=False)
@click.option("--file", "path", type=click.Path(dir_okay=False), help="Take the value from a file (-: standard input).")
@click.option("--if-revision", type=click.IntRange(min=1), help="Only if the key's revision is this one.")
@click.option("--if-absent", is_flag=True, help="Only if there is no such key.")
@click.option("--if-present", is_flag=True, help="Only if there is such a key.")
@click.option("--ttl", "ttl_s", type=TTL, metavar="TIME", help="Delete it after this time: 30s, 5m, 2h.")
@click.option("--lease", metavar="ID", help="Delete it with this lease.")
async def put(
    context: Context,
    *,
    key: str,
    value: str | None,
    path: str | None,
    if_revision: int | None,
    if_absent: bool,
    if_present: bool,
    ttl_s: float | None,
    lease: str | None,
) -> None:
    """Write a key. The value is VALUE, or a file's content, or what is piped in.

    Exit status 3 if there is no such lease, 6 if the condition did not hold. A key or value that begins with a dash
    goes after `--`.
    """
    name = key_bytes(key)
    data = _value(value, path)
    async with make_client(context) as client:
        result = await client.put(
            name, data, if_revision=if_revision, if_absent=if_absent, if_present=if_present, ttl=ttl_s, lease=lease
        )
    with acknowledged():
        if context.as_json:
            own = {"lease": result.lease} if result.lease else {}
            print_json({**json_key("key", name), "revision": result.revision, **own})
        else:
            print_line(f"revision {result.revision}" + (f", lease {result.lease}" if result.lease else ""))


@click.command("del", short_help="Delete a key.")
@client_command
@click.argument("key", shell_complete=complete_keys)
@click.option("--if-revision", type=click.IntRange(min=1), help="Only if the key's revision is this one.")
@click.option("--prefix", "is_prefix", is_flag=True, help="Delete all keys that begin with KEY.")
@click.option("--yes", is_flag=True, help="With --prefix: don't ask.")
async def delete(context: Context, *, key: str, if_revision: int | None, is_prefix: bool, yes: bool) -> None:
    """Delete a key, or all keys below a prefix.

    Exit status 3 if there is no such key, 6 if the condition did not hold.
    """
    name = key_bytes(key)
    if is_prefix:
        if if_revision is not None:
            raise click.UsageError("--if-revision is for one key, not for --prefix")
        await _delete_prefix(context, name, sure=yes)
        return
    async with make_client(context) as client:
        result = await client.delete(name, if_revision=if_revision)
    with acknowledged():
        if context.as_json:
            print_json({**json_key("key", name), "deleted": result.deleted, "revision": result.revision})
        elif result.deleted:
            print_line(f"deleted, revision {result.revision}")
    if not result.deleted:
        raise _no_key(name, context)


async def _delete_prefix(context: Context, prefix: bytes, *, sure: bool) -> None:
    """Delete all keys below a prefix in one transaction, after asking on a terminal."""
    async with make_client(context) as client:
        if not sure:
            count = await client.count(prefix)
            if not sys.stdin.isatty():
                raise click.UsageError(f"this deletes {_keys(count)}: give --yes as well")
            click.confirm(f"Delete {_keys(count)}, all that begin with {shown(prefix)}?", abort=True, err=True)
        result = await client.txn(then=[DeletePrefixOp(prefix)])
    deleted = result.results[0].deleted
    with acknowledged():
        if context.as_json:
            print_json({**json_key("prefix", prefix), "deleted": deleted, "revision": result.revision})
        else:
            print_line(f"deleted {_keys(deleted)}, revision {result.revision}")
    if not deleted:
        raise Failure(f"no key begins with {shown(prefix)}", EXIT_NOT_FOUND, code="not_found", as_json=context.as_json)


@click.command("list", short_help="List keys in order.")
@client_command
@click.argument("prefix", default="", shell_complete=complete_keys)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many keys.  [default: all]")
@click.option("--values", is_flag=True, help="Print values, too: KEY<tab>VALUE.")
@click.option("-l", "--long", "is_long", is_flag=True, help="Print revisions, version, size and lease, too.")
@click.option("--reverse", is_flag=True, help="Last key first.")
@click.option("--count", is_flag=True, help="Print the number of keys only.")
@REVISION
@click.option("--consistency", type=CONSISTENCY, help="How fresh the answer must be.  [default: linearizable]")
async def list_keys(
    context: Context,
    *,
    prefix: str,
    limit: int | None,
    values: bool,
    is_long: bool,
    reverse: bool,
    count: bool,
    revision: int | None,
    consistency: str | None,
) -> None:
    """List keys that begin with PREFIX, in the order of their bytes, all as they are at one revision.

    With -l each line is MOD_REVISION CREATE_REVISION VERSION SIZE LEASE KEY. Control characters and bytes that are not
    text are escaped with backslashes; --json gives all bytes exactly.
    """
    start = prefix.encode("utf-8", "surrogateescape")
    async with make_client(context) as client:
        if count and not context.as_json:
            print_line(str(await client.count(start, revision=revision, consistency=consistency)))
            return
        shown_revision = 0
        if context.as_json:  # a program goes on from this revision, for instance with a watch
            page = await client.list(start, limit=1, revision=revision, consistency=consistency)
            shown_revision = page.revision
            revision = page.revision or None
            if count:
                print_json({"count": page.count, "revision": shown_revision})
                return
        printer = _JsonKeys(shown_revision) if context.as_json else _LongKeys() if is_long else _TextKeys()
        keys = client.scan(
            start,
            values=values,
            reverse=reverse,
            page=min(limit or 1000, 1000),
            revision=revision,
            consistency=consistency,
        )
        await _print_keys(keys, printer, limit)
        printer.end()


async def _print_keys(keys: AsyncIterator[KeyInfo], printer: _TextKeys | _JsonKeys, limit: int | None) -> None:
    left = limit
    async for item in keys:
        printer.add(item)
        if left is not None:
            left -= 1
            if left == 0:
                return


class _TextKeys:
    """Prints one key per line."""

    def add(self, item: KeyInfo) -> None:
        print_line(_line_of(item))

    def end(self) -> None:
        pass


class _LongKeys(_TextKeys):
    """Prints one key per line, with all that is known of it. The widths fit most stores, so nothing is held back."""

    def add(self, item: KeyInfo) -> None:
        lease = f"{item.lease:016x}" if item.lease else "-"
        numbers = f"{item.mod_revision:>10} {item.create_revision:>10} {item.version:>6} {item.size_bytes:>9}"
        print_line(f"{numbers} {lease:>16} {_line_of(item)}")


class _JsonKeys:
    """Prints one JSON document key by key: a listing may be larger than memory."""

    _OPENING = '{"keys":['

    def __init__(self, revision: int) -> None:
        self._revision = revision
        self._count = 0

    def add(self, item: KeyInfo) -> None:
        fields: dict[str, object] = {
            **json_key("key", item.key),
            "mod_revision": item.mod_revision,
            "create_revision": item.create_revision,
            "version": item.version,
            "size_bytes": item.size_bytes,
        }
        if item.lease:
            fields["lease"] = f"{item.lease:016x}"
        if item.value is not None:
            fields.update(json_key("value", item.value))
        print_line((self._OPENING if not self._count else ",") + json_text(fields))
        self._count += 1

    def end(self) -> None:
        begin = self._OPENING if not self._count else ""
        print_line(begin + f'],"count":{self._count},"revision":{self._revision}}}')


def _line_of(item: KeyInfo) -> str:
    return shown(item.key) + ("" if item.value is None else "\t" + shown(item.value))


def _value(value: str | None, path: str | None) -> bytes:
    if value is not None and path is not None:
        raise click.UsageError("give a VALUE or --file, not both")
    if value is not None:
        return value.encode("utf-8", "surrogateescape")
    if path is not None and path != "-":
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise click.UsageError(f"can't read {path}: {error.strerror}") from error
    if path is None and sys.stdin.isatty():
        raise click.UsageError("give a VALUE, or --file PATH, or pipe the value in")
    data = sys.stdin.buffer.read()
    if not data and path is None:
        raise click.UsageError("give a VALUE: standard input is empty (--file - takes an empty value from it)")
    return data


def _keys(count: int) -> str:
    return f"{count} key{'s' * (count != 1)}"


def _no_key(key: bytes, context: Context) -> Failure:
    return Failure(f"key not found: {shown(key)}", EXIT_NOT_FOUND, code="not_found", as_json=context.as_json)
