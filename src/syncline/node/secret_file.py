"""The cluster secret as text: in a file, or in the environment.

One secret a line, as hexadecimal digits or as base64; empty lines and lines that begin with # are left out. A line of
hexadecimal digits alone, of even number, is read as such. The first secret is used, all are accepted.
"""

from __future__ import annotations

import base64
import os
import secrets
import stat
from typing import Final

from syncline.errors import ConfigError
from syncline.transport.authentication import MIN_SECRET_BYTES, check_secrets

__all__ = ["new_secret", "parse_secrets", "read_secret_file", "write_secret_file"]

FILE_LIMIT_BYTES: Final = 16 * 1024
"""Eight secrets of 1 KiB as hexadecimal digits."""

_HEX: Final = frozenset("0123456789abcdefABCDEF")


def parse_secrets(text: str, origin: str) -> tuple[bytes, ...]:
    """Read secrets from text; `origin` names it in errors, which never hold a secret. Raises `ConfigError`."""
    found: list[bytes] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            hexadecimal = len(line) % 2 == 0 and _HEX.issuperset(line)
            found.append(bytes.fromhex(line) if hexadecimal else base64.b64decode(line, validate=True))
        except ValueError:  # of base64, or of text that is not ASCII
            raise ConfigError(
                f"{origin}: line {number} is neither hexadecimal digits nor base64; `syncline secret new` makes one"
            ) from None
    if not found:
        raise ConfigError(f"{origin} holds no secret; `syncline secret new` makes one")
    try:
        check_secrets(tuple(found))
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    return tuple(found)


def read_secret_file(path: str) -> tuple[bytes, ...]:
    """Read the secrets of a file that only its owner can read. Raises `ConfigError` that says what to do."""
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigError(
                    f"the secret file {path} can be read or changed by other users (mode {mode:04o}): chmod 600 {path}"
                )
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the secret file {path} can't be read: {error.strerror}; `syncline secret new --output {path}` makes one"
        ) from error
    if len(data) > FILE_LIMIT_BYTES:
        raise ConfigError(f"the secret file {path} has more than {FILE_LIMIT_BYTES} bytes: it is not a secret file")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"the secret file {path} is not text; `syncline secret new` makes one") from None
    return parse_secrets(text, f"the secret file {path}")


def new_secret() -> str:
    """Make a secret: one line of text."""
    return secrets.token_hex(MIN_SECRET_BYTES)


def write_secret_file(path: str) -> None:
    """Make a secret in a new file of mode 0600. Raises `ConfigError` if the file exists or can't be made."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists, and a secret is never overwritten: name another file, or remove it if no node uses it"
        ) from None
    except OSError as error:
        raise ConfigError(f"the secret file {path} can't be made: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(new_secret() + "\n")
        file.flush()
        os.fsync(file.fileno())
