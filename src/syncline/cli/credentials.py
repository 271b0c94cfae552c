"""Credentials of the client commands: from files, the environment, standard input or a prompt, and never an argument.

Each user of a machine can read the arguments of all its programs.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import click
import msgspec

from syncline.errors import ConfigError

__all__ = ["NO_PASSWORD", "Credential", "find_credential", "find_password", "new_password"]

TOKEN_FILE_VARIABLE: Final = "SYNCLINE_TOKEN_FILE"  # noqa: S105 - the name of a variable
USER_VARIABLE: Final = "SYNCLINE_USER"
PASSWORD_FILE_VARIABLE: Final = "SYNCLINE_PASSWORD_FILE"  # noqa: S105 - the name of a variable


class Credential(msgspec.Struct, frozen=True):
    """What a client shows; all None: nothing."""

    user: str | None = None
    password: str | None = None
    token: str | None = None

    def __repr__(self) -> str:
        return "Credential(…)"


def _refused(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    del param
    if value is not None:
        raise click.UsageError(
            "--password is refused: each user of this machine can read the arguments of a program, and the shell keeps"
            " them. Leave it out to be asked, or name a file (--password-file FILE, or - for standard input)",
            ctx,
        )


NO_PASSWORD: Final = click.option(
    "--password", hidden=True, expose_value=False, is_eager=True, metavar="TEXT", callback=_refused
)
"""Refuses a password among the arguments, and says why."""


def find_credential(user: str | None, token_file: str | None) -> Credential:
    """The credential for the options; those that are None come from the environment. Raises `ConfigError`."""
    if user is not None and token_file is not None:
        raise ConfigError("give --user or --token-file, not both")
    if user is None and token_file is None:  # an option wins over both variables
        token_file = os.environ.get(TOKEN_FILE_VARIABLE) or None
        user = None if token_file else os.environ.get(USER_VARIABLE) or None
    if token_file is not None:
        return Credential(token=_secret_line(token_file, "token"))
    if user is None:
        return Credential()
    return Credential(
        user=user, password=find_password(user, PASSWORD_FILE_VARIABLE, otherwise=", or use a token (--token-file)")
    )


def find_password(user: str, variable: str, *, otherwise: str = "") -> str:
    """The password in the file that an environment variable names, else asked for. Raises `ConfigError`.

    `otherwise` adds to the error what else can be done.
    """
    if password_file := os.environ.get(variable):
        return _secret_line(password_file, "password")
    if not sys.stdin.isatty():
        raise ConfigError(
            f"the password of {user!r} can't be asked for without a terminal: name a file in {variable}{otherwise}"
        )
    return str(click.prompt(f"Password of {user}", hide_input=True, err=True))


def new_password(user: str, password_file: str | None) -> str:
    """A new password: from a file (`-`: standard input), or asked for twice. Raises `ConfigError`."""
    if password_file is not None:
        return _secret_line(password_file, "password")
    if not sys.stdin.isatty():
        raise ConfigError(
            "a new password can't be asked for without a terminal: give --password-file FILE, or - for standard input"
        )
    asked = click.prompt(f"New password of {user}", hide_input=True, confirmation_prompt=True, err=True)
    return str(asked)


def _secret_line(path: str, what: str) -> str:
    from syncline.server.secret_line import (
        read_secret_line,  # the server is loaded where a file is read, and only there
    )

    return read_secret_line(path, what)
