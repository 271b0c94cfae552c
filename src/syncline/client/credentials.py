"""The credential of a client: a user and its password, or a token. It is sent with each request, in a header field."""

from __future__ import annotations

import base64

from syncline.errors import ConfigError

__all__ = ["authorization"]


def authorization(user: str | None, password: str | None, token: str | None) -> str:
    """The value of the field `Authorization`; empty without a credential. Raises `ConfigError` or `TypeError`.

    Errors never show what was given.
    """
    for name, value in (("user", user), ("password", password), ("token", token)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if token is not None:
        if user is not None or password is not None:
            raise ConfigError("give a user and its password, or a token, not both")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError("the token is empty, or holds blanks or other characters that no token has")
        return f"Bearer {token}"
    if user is None and password is None:
        return ""
    if not user or password is None:
        raise ConfigError("a user and its password go together")
    if ":" in user or not user.isprintable():
        raise ConfigError("the name of a user holds printable characters alone, and no colon")
    try:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    except UnicodeEncodeError:
        raise ConfigError("the user or the password is not text") from None
