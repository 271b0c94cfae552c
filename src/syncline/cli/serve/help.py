"""The help text of each setting for `serve --help`, made of its declaration."""

from __future__ import annotations

from syncline.node.settings.declare import flag_help
from syncline.server.config import SERVER_SETTINGS

__all__ = ["help_of"]


def help_of(setting: str) -> str:
    """The description of a setting, with what is accepted and its default."""
    return flag_help(SERVER_SETTINGS[setting], SERVER_SETTINGS)
