"""The commands `lease grant|keepalive|revoke|ttl|list` and `touch`."""

from __future__ import annotations

import click

from syncline.cli.common import TTL, Context, client_command, key_bytes, make_client
from syncline.cli.completing import complete_keys
from syncline.cli.output import json_key, print_json, print_line, shown
from syncline.cli.streams import acknowledged
from syncline.platform.texts import counted

__all__ = ["lease", "touch"]


@click.group("lease", short_help="Grant, keep alive, show or end leases.")
def lease() -> None:
    """Grant, keep alive, show or end leases. A lease that ends deletes its keys.

    The id of a lease is 16 hexadecimal digits.
    """


@lease.command("grant", short_help="Grant a lease.")
@client_command
@click.argument("ttl_s", type=TTL, metavar="TTL")
@click.option("--id", "name", metavar="ID", help="The id of the lease.  [default: drawn at random]")
async def grant(context: Context, *, ttl_s: float, name: str | None) -> None:
    """Grant a lease that lasts for TTL (30s, 5m, 2h) from now, or from its last keep-alive. Print its id."""
    async with make_client(context) as client:
        granted = await client.grant_lease(ttl_s, lease=name)
    with acknowledged():
        print_json({"id": granted.id, "ttl_s": granted.ttl_s}) if context.as_json else print_line(granted.id)


@lease.command("keepalive", short_help="Keep a lease alive.")
@client_command
@click.argument("name", metavar="ID")
@click.option("--once", is_flag=True, help="Once, and not until it is interrupted.")
async def keepalive(context: Context, *, name: str, once: bool) -> None:
    """Give a lease its full time again, and go on with that until the lease is lost or Ctrl-C.

    Exit status 3 if there is no such lease, 5 if it is lost.
    """
    async with make_client(context) as client, client.hold_lease(name) as held:
        with acknowledged():
            if context.as_json:
                print_json({"id": held.id, "ttl_s": held.ttl_s})
            else:
                print_line(f"{_seconds(held.ttl_s)} s")
        if not once:
            raise await held.lost()


@lease.command("revoke", short_help="End a lease.")
@client_command
@click.argument("name", metavar="ID")
async def revoke(context: Context, *, name: str) -> None:
    """End a lease and delete its keys, in one revision. Exit status 3 if there is no such lease."""
    async with make_client(context) as client:
        result = await client.revoke_lease(name)
    with acknowledged():
        if context.as_json:
            print_json({"deleted": result.deleted, "revision": result.revision})
        else:
            print_line(f"deleted {counted(result.deleted, 'key')}, revision {result.revision}")


@lease.command("ttl", short_help="Show what is left of a lease's time, and its keys.")
@client_command
@click.argument("name", metavar="ID")
async def ttl(context: Context, *, name: str) -> None:
    """Print how many seconds are left of a lease and how many it was granted, then its keys, one a line.

    Exit status 3 if there is no such lease.
    """
    async with make_client(context) as client:
        found = await client.lease_details(name)
    if context.as_json:
        keys = [json_key("key", key) for key in found.keys]
        times = {"id": found.id, "ttl_s": found.ttl_s, "granted_ttl_s": found.granted_ttl_s}
        print_json({**times, "keys": keys, "more": found.more})
        return
    print_line(f"{_seconds(found.ttl_s)} s of {_seconds(found.granted_ttl_s)} s")
    for key in found.keys:
        print_line(shown(key))
    if found.more:
        print_line("…")


@lease.command("list", short_help="List the leases.")
@client_command
async def list_leases(context: Context) -> None:
    """List the leases, one a line: ID, seconds granted, number of keys."""
    async with make_client(context) as client:
        found = await client.leases()
    if context.as_json:
        print_json({"leases": [{"id": one.id, "granted_ttl_s": one.granted_ttl_s, "keys": one.keys} for one in found]})
        return
    for one in found:
        print_line(f"{one.id} {_seconds(one.granted_ttl_s):>10} {one.keys:>6}")


@click.command("touch", short_help="Give a key a time to live.")
@client_command
@click.argument("key", shell_complete=complete_keys)
@click.option("--ttl", "ttl_s", type=TTL, metavar="TIME", required=True, help="Delete it after this time: 30s, 5m, 2h.")
async def touch(context: Context, *, key: str, ttl_s: float) -> None:
    """Let a key be deleted after a time that begins now. Its value stays as it is.

    Exit status 3 if there is no such key.
    """
    name = key_bytes(key)
    async with make_client(context) as client:
        result = await client.touch(name, ttl_s)
    with acknowledged():
        if context.as_json:
            print_json({**json_key("key", name), "lease": result.lease, "revision": result.revision})
        else:
            print_line(f"lease {result.lease}, revision {result.revision}")


def _seconds(seconds: float) -> str:
    """Seconds with milliseconds if there are any, and never with an exponent: the longest TTL has 13 digits."""
    return f"{seconds:.13g}"
