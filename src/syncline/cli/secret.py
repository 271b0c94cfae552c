"""The command `secret`: make the secret by which the nodes of a cluster know each other."""

from __future__ import annotations

import click

from syncline.cli.exits import failure_of
from syncline.cli.output import print_json
from syncline.errors import SynclineError
from syncline.node.secret_file import new_secret, write_secret_file

__all__ = ["secret"]


@click.group("secret", short_help="Make a cluster secret.")
def secret() -> None:
    """Make the secret by which the nodes of a cluster know each other."""


@secret.command("new", short_help="Make a new secret.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default="peer-secret",
    show_default=True,
    help="The file to make, with mode 0600; - prints the secret.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def new(output: str, as_json: bool) -> None:
    """Make a new cluster secret: 32 random bytes, as one line of hexadecimal digits.

    Copy the file to each node and start it with --peer-secret-file FILE. An existing file is never overwritten. To
    change the secret of a running cluster, see docs/security.md.
    """
    if output == "-":
        made = new_secret()
        print_json({"secret": made}) if as_json else click.echo(made)
        return
    try:
        write_secret_file(output)
    except SynclineError as error:
        raise failure_of(error, as_json=as_json) from error
    if as_json:
        print_json({"file": output})
        return
    click.echo(f"made {output}: copy it to each node, and start the nodes with --peer-secret-file", err=True)
