"""The commands `user`, `role` and `auth`."""

from __future__ import annotations

from typing import Final, cast

import click

from syncline.cli.common import TTL, Context, client_command, key_bytes, make_client
from syncline.cli.credentials import NO_PASSWORD, new_password
from syncline.cli.output import print_json, print_line, print_table, shown
from syncline.cli.streams import acknowledged
from syncline.client import AuthReply, KeyAccessItem
from syncline.client.user_schemas import AccessName, OperationName
from syncline.client.wire import bytes_of
from syncline.platform.texts import counted

__all__ = ["auth", "role", "user"]

TOKEN_TTL_S: Final = 30 * 86_400.0
ACCESS: Final = ("read", "write", "readwrite")
OPERATIONS: Final = ("status", "members", "leadership", "snapshot", "compact")

PASSWORD_FILE: Final = click.option(
    "--password-file", metavar="FILE", help="Take the new password from this file (mode 0600); - for standard input."
)


# --- users


@click.group("user", short_help="Add, list and remove users, and make tokens.")
def user() -> None:
    """Users, their roles and their tokens. docs/users.md has the guide."""


@user.command("add", short_help="Add a user.")
@client_command
@click.argument("name")
@click.option("--admin", is_flag=True, help="With the role root, which may do everything.")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="With this role; may be given several times.")
@click.option("--no-password", is_flag=True, help="With tokens alone.")
@PASSWORD_FILE
@NO_PASSWORD
async def add(
    context: Context, *, name: str, admin: bool, roles: tuple[str, ...], no_password: bool, password_file: str | None
) -> None:
    """Add a user. The password is asked for, or read from a file; it is never an argument."""
    if no_password and password_file is not None:
        raise click.UsageError("give --no-password or --password-file, not both")
    password = None if no_password else new_password(name, password_file)
    async with make_client(context) as client:
        _done(context, await client.add_user(name, password, roles=roles, admin=admin), f"added user {name}")


@user.command("remove", short_help="Remove a user and its tokens.")
@client_command
@click.argument("name")
async def remove(context: Context, *, name: str) -> None:
    """Remove a user and its tokens. The last administrator stays while clients need credentials."""
    async with make_client(context) as client:
        _done(context, await client.remove_user(name), f"removed user {name}")


@user.command("list", short_help="List the users.")
@client_command
async def list_users(context: Context) -> None:
    """List the users: NAME, whether it has a password, ROLES."""
    async with make_client(context) as client:
        users = await client.users()
    if context.as_json:
        print_json({"users": users})
        return
    rows = [(_shown(one.name), "yes" if one.has_password else "no", _listed(one.roles)) for one in users]
    print_table(("NAME", "PASSWORD", "ROLES"), rows)


@user.command("show", short_help="Show a user and its tokens.")
@client_command
@click.argument("name")
async def show(context: Context, *, name: str) -> None:
    """Show the roles of a user and its tokens: ID, when it ends, what it is for. Texts of tokens are not kept."""
    async with make_client(context) as client:
        found = await client.user(name)
    if context.as_json:
        print_json(found)
        return
    print_line(f"{_shown(found.name)}: password {'yes' if found.has_password else 'no'}, roles {_listed(found.roles)}")
    print_table(("TOKEN", "ENDS", "ABOUT"), [(one.id, one.expires, _shown(one.about)) for one in found.tokens])


@user.command("password", short_help="Change a password.")
@client_command
@click.argument("name")
@click.option("--none", "no_password", is_flag=True, help="Leave the user with tokens alone.")
@PASSWORD_FILE
@NO_PASSWORD
async def password(context: Context, *, name: str, no_password: bool, password_file: str | None) -> None:
    """Change the password of a user. It is asked for, or read from a file; it is never an argument."""
    if no_password and password_file is not None:
        raise click.UsageError("give --none or --password-file, not both")
    chosen = None if no_password else new_password(name, password_file)
    async with make_client(context) as client:
        _done(context, await client.set_password(name, chosen), f"changed the password of {name}")


@user.command("grant", short_help="Give a user a role.")
@client_command
@click.argument("name")
@click.argument("role_name", metavar="ROLE")
async def grant(context: Context, *, name: str, role_name: str) -> None:
    """Give a user a role."""
    async with make_client(context) as client:
        _done(context, await client.grant_role(name, role_name), f"{name} has the role {role_name}")


@user.command("revoke", short_help="Withdraw a role from a user.")
@client_command
@click.argument("name")
@click.argument("role_name", metavar="ROLE")
async def revoke(context: Context, *, name: str, role_name: str) -> None:
    """Withdraw a role from a user."""
    async with make_client(context) as client:
        _done(context, await client.revoke_role(name, role_name), f"{name} has not the role {role_name}")


@user.command("token", short_help="Make a token of a user, or end one.")
@client_command
@click.argument("name")
@click.option("--ttl", "ttl_s", type=TTL, default=TOKEN_TTL_S, metavar="TIME", help="How long it is good.  [30 days]")
@click.option("--about", default="", metavar="TEXT", help="What it is for.")
@click.option("--end", "ended", metavar="ID", help="End this token instead of making one.")
async def token(context: Context, *, name: str, ttl_s: float, about: str, ended: str | None) -> None:
    """Print a new token of a user. It is shown this once; the cluster keeps a hash alone.

    Put it into a file of mode 0600, and name the file with --token-file or SYNCLINE_TOKEN_FILE.
    """
    async with make_client(context) as client:
        if ended is not None:
            if ended not in {one.id for one in (await client.user(name)).tokens}:
                raise click.UsageError(f"{name} has no token {ended}; 'syncline user show' lists them")
            _done(context, await client.remove_token(ended), f"ended token {ended}")
            return
        made = await client.new_token(name, ttl=ttl_s, about=about)
    with acknowledged():
        print_json(made) if context.as_json else print_line(made.token)


# --- roles


@click.group("role", short_help="Add roles, and say what they allow.")
def role() -> None:
    """Roles, and what they allow. The role root allows everything."""


@role.command("add", short_help="Add a role.")
@client_command
@click.argument("name")
async def add_role(context: Context, *, name: str) -> None:
    """Add a role that allows nothing yet."""
    async with make_client(context) as client:
        _done(context, await client.add_role(name), f"added role {name}")


@role.command("remove", short_help="Remove a role, also from its users.")
@client_command
@click.argument("name")
async def remove_role(context: Context, *, name: str) -> None:
    """Remove a role, also from its users."""
    async with make_client(context) as client:
        _done(context, await client.remove_role(name), f"removed role {name}")


@role.command("list", short_help="List the roles and what they allow.")
@client_command
async def list_roles(context: Context) -> None:
    """List the roles: NAME, and what it allows."""
    async with make_client(context) as client:
        roles = await client.roles()
    if context.as_json:
        print_json({"roles": roles})
        return
    rows = [
        (_shown(one.name), what)
        for one in roles
        for what in [*map(_range, one.keys), *[f"operation {name}" for name in one.operations]]
        or ["everything" if one.name == "root" else "nothing"]
    ]
    print_table(("NAME", "ALLOWS"), rows)


KEYS: Final = (
    click.option("--key", metavar="KEY", help="On this key."),
    click.option("--prefix", metavar="PREFIX", help="On the keys that begin with it; an empty one: on all keys."),
    click.option("--start", metavar="KEY", help="On the keys from this one on."),
    click.option("--end", metavar="KEY", help="With --start: up to this key, without it."),
    click.option("--operation", type=click.Choice(OPERATIONS), help="An operation on the cluster, instead of keys."),
)


@role.command("grant", short_help="Let a role allow something.")
@client_command
@click.argument("name")
@click.argument("access", type=click.Choice(ACCESS), required=False)
@KEYS[0]
@KEYS[1]
@KEYS[2]
@KEYS[3]
@KEYS[4]
async def grant_keys(
    context: Context,
    *,
    name: str,
    access: str | None,
    key: str | None,
    prefix: str | None,
    start: str | None,
    end: str | None,
    operation: str | None,
) -> None:
    """Let a role allow ACCESS (read, write or readwrite) to keys, or an operation on the cluster.

    syncline role grant reader read --prefix config/
    """
    if (access is None) == (operation is None):
        raise click.UsageError("give an access (read, write, readwrite) with keys, or --operation")
    _check_range(key, prefix, start, end, operation)
    async with make_client(context) as client:
        answer = await client.allow(
            name,
            cast("AccessName | None", access),
            key=_bytes(key),
            prefix=_bytes(prefix),
            start=_bytes(start),
            end=_bytes(end),
            operation=cast("OperationName | None", operation),
        )
        _done(context, answer, f"{name} allows it")


def _check_range(
    key: str | None, prefix: str | None, start: str | None, end: str | None, operation: str | None
) -> None:
    """Raise `UsageError` unless exactly one range of keys is named, or none beside an operation."""
    ranges = sum(one is not None for one in (key, prefix, start))
    if ranges + (operation is not None) != 1 or (end is not None and start is None):
        raise click.UsageError(
            "name one range of keys (--key, --prefix, or --start with or without --end), or --operation"
        )


@role.command("revoke", short_help="Let a role allow something no longer.")
@client_command
@click.argument("name")
@KEYS[0]
@KEYS[1]
@KEYS[2]
@KEYS[3]
@KEYS[4]
async def revoke_keys(
    context: Context,
    *,
    name: str,
    key: str | None,
    prefix: str | None,
    start: str | None,
    end: str | None,
    operation: str | None,
) -> None:
    """Withdraw exactly a range as it was granted, or an operation."""
    _check_range(key, prefix, start, end, operation)
    async with make_client(context) as client:
        answer = await client.disallow(
            name,
            key=_bytes(key),
            prefix=_bytes(prefix),
            start=_bytes(start),
            end=_bytes(end),
            operation=cast("OperationName | None", operation),
        )
        _done(context, answer, f"{name} does not allow it any more")


# --- the switch


@click.group("auth", short_help="Require credentials from clients, or not.")
def auth() -> None:
    """Whether clients need credentials."""


@auth.command("status", short_help="Show whether clients need credentials.")
@client_command
async def auth_status(context: Context) -> None:
    """Show whether clients need credentials, and how many users there are."""
    async with make_client(context) as client:
        found = await client.auth_status()
    if context.as_json:
        print_json(found)
        return
    needed = "clients need credentials" if found.enabled else "clients need no credentials"
    counts = f"{counted(found.users, 'user')}, {counted(found.roles, 'role')}, {counted(found.tokens, 'token')}"
    print_line(f"{needed}; auth revision {found.revision}, {counts}")


@auth.command("enable", short_help="Require credentials.")
@client_command
async def enable(context: Context) -> None:
    """Require credentials from all clients. First add an administrator: syncline user add root --admin."""
    async with make_client(context) as client:
        _done(context, await client.enable_auth(), "clients need credentials")


@auth.command("disable", short_help="Require no credentials any more.")
@client_command
async def disable(context: Context) -> None:
    """Require no credentials any more. Users, roles and tokens stay."""
    async with make_client(context) as client:
        _done(context, await client.disable_auth(), "clients need no credentials")


def _done(context: Context, answer: AuthReply, text: str) -> None:
    with acknowledged():
        if context.as_json:
            print_json({"revision": answer.revision, "changed": answer.changed})
        else:
            print_line(f"{_shown(text)}, auth revision {answer.revision}")


def _shown(text: str) -> str:
    return shown(text.encode("utf-8", "backslashreplace"))


def _listed(names: list[str]) -> str:
    return ", ".join(map(_shown, names)) or "-"


def _bytes(text: str | None) -> bytes | None:
    if text is None:
        return None
    return b"" if not text else key_bytes(text)


def _range(item: KeyAccessItem) -> str:
    start, end = bytes_of(item.start, item.start_base64) or b"", bytes_of(item.end, item.end_base64)
    if end is None:
        return f"{item.access} all keys" if not start else f"{item.access} from {shown(start)} on"
    if end == start + b"\0":
        return f"{item.access} key {shown(start)}"
    prefix = end[:-1] + bytes([end[-1] - 1]) if end and end[-1] else b""
    if prefix == start:
        return f"{item.access} prefix {shown(start)}"
    return f"{item.access} from {shown(start)} to {shown(end)}"
