"""The command `certs`: make certificates for a start."""

from __future__ import annotations

import click

from syncline.cli.certificates import AUTHORITY_DAYS, CERTIFICATE_DAYS, make_authority, make_client, make_node
from syncline.cli.exits import failure_of
from syncline.cli.output import print_json
from syncline.errors import SynclineError

__all__ = ["certs"]

DEFAULT_DIRECTORY = "certs"

_DIRECTORY = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False),
    default=DEFAULT_DIRECTORY,
    show_default=True,
    help="Where the authority and all certificates are.",
)
_DAYS = click.option(
    "--days",
    type=click.IntRange(1, AUTHORITY_DAYS),
    default=CERTIFICATE_DAYS,
    show_default=True,
    help="How long it is valid.",
)
_REPLACE = click.option("--replace", is_flag=True, help="Renew: put new files in place of those that exist.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("certs", short_help="Make certificates for TLS.")
def certs() -> None:
    """Make a certificate authority, and certificates for nodes and clients.

    Keys get mode 0600, and no file is overwritten. The program `openssl` is needed. See docs/tls.md.
    """


@certs.command("ca", short_help="Make a certificate authority.")
@_DIRECTORY
@click.option(
    "--days",
    type=click.IntRange(1, 36500),
    default=AUTHORITY_DAYS,
    show_default=True,
    help="How long it is valid.",
)
@_JSON
def authority(directory: str, days: int, as_json: bool) -> None:
    """Make the authority that issues the certificates of one cluster: DIR/ca.pem and DIR/ca.key.

    ca.pem goes to every node and client. A program that has ca.key can make itself a node: keep it off the nodes.
    """
    try:
        path = make_authority(directory, days=days)
    except SynclineError as error:
        raise failure_of(error, as_json=as_json) from error
    _tell([path], as_json, f"made {path}: copy it to every node and client. Keep {directory}/ca.key from all of them")


@certs.command("node", short_help="Make the certificates of nodes.")
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@_DIRECTORY
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="Host name or address by which clients reach it; may be repeated. localhost is always there.",
)
@_DAYS
@_REPLACE
@_JSON
def node(
    names: tuple[str, ...], directory: str, hosts: tuple[str, ...], days: int, replace: bool, as_json: bool
) -> None:
    """Make a certificate for each node: DIR/NAME.pem and DIR/NAME.key.

    NAME is the node's name in the cluster (--name of 'syncline serve'): its peers know it by that.
    """
    try:
        paths = [make_node(directory, name, hosts, days=days, replace=replace) for name in names]
    except SynclineError as error:
        raise failure_of(error, as_json=as_json) from error
    told = [f"made {path} and its key: they go to that node alone, ca.pem goes with them" for path in paths]
    _tell(paths, as_json, "\n".join(told))


@certs.command("client", short_help="Make the certificate of a client.")
@click.argument("name")
@_DIRECTORY
@_DAYS
@_REPLACE
@_JSON
def client(name: str, directory: str, days: int, replace: bool, as_json: bool) -> None:
    """Make a certificate for a client of nodes that ask for one (--http-tls-ca): DIR/NAME.pem and DIR/NAME.key."""
    try:
        path = make_client(directory, name, days=days, replace=replace)
    except SynclineError as error:
        raise failure_of(error, as_json=as_json) from error
    _tell([path], as_json, f"made {path} and its key: give them to the client as --cert and --key-file")


def _tell(paths: list[str], as_json: bool, text: str) -> None:
    if as_json:
        print_json({"files": paths})
    else:
        click.echo(text, err=True)
