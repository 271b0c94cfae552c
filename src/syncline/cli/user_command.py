"""Commands that run a command of the user's: `syncline watch … -- COMMAND…`."""

from __future__ import annotations

from typing import Final

import click

__all__ = ["WithCommand", "user_command"]

_COMMAND: Final = "syncline.user_command"


class WithCommand(click.Command):
    """A command whose arguments after `--` are a command of their own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_COMMAND] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


def user_command() -> tuple[str, ...] | None:
    """What stands after `--`; None if there is no `--`. Raises `UsageError` if nothing follows it."""
    command: tuple[str, ...] | None = click.get_current_context().meta.get(_COMMAND)
    if command == ():
        raise click.UsageError("no command follows --")
    return command
