"""Other settings for a node that runs: its timers and limits. All else is fixed from its start on."""

from __future__ import annotations

import logging
from typing import Final

from syncline.errors import ConfigError
from syncline.node.changes import Changes
from syncline.node.config import Config
from syncline.node.runtime import Driver
from syncline.node.startup import election_ticks_of

__all__ = ["RELOADABLE", "apply_settings", "changed_settings"]

log: Final = logging.getLogger("syncline.node")

RELOADABLE: Final = (
    "heartbeat_s",
    "election_s",
    "session_idle_s",
    "max_entry_bytes",
    "max_message_bytes",
    "max_inflight_messages",
    "max_inflight_bytes",
    "max_uncommitted_bytes",
    "max_pending_bytes",
    "snapshot_entries",
    "snapshot_bytes",
    "snapshots_retained",
    "trailing_entries",
    "segment_bytes",
    "reserve_bytes",
    "hold_level",
    "http",
)
"""Settings that a running node takes. The others decide what it is (name, ids, directory), what it listens on, or
which peers it accepts: connections and files that are open were made by them."""

_IDENTITY: Final = ("cluster_id", "node_id")


def changed_settings(before: Config, after: Config) -> tuple[str, ...]:
    """The names of the settings that differ.

    Ids may be left out: a node that joined knows them from its data directory.

    Raises:
        ConfigError: a setting differs that a running node can't change.
    """
    changed = [
        field
        for field in before.__struct_fields__
        if getattr(before, field) != getattr(after, field) and not (field in _IDENTITY and not getattr(after, field))
    ]
    fixed = [field for field in changed if field not in RELOADABLE]
    if fixed:
        raise ConfigError(
            f"reload can't change {', '.join(fixed)} of node {before.name}, and has changed nothing: close the node and"
            f" open it with these settings. It can change {', '.join(RELOADABLE)}"
        )
    return tuple(changed)


def apply_settings(config: Config, driver: Driver, changes: Changes) -> None:
    """Have the parts of a node go on with these settings, which `changed_settings` has passed."""
    parts, core = driver.parts, driver.core
    ticks = election_ticks_of(config)
    driver.reconfiguration.reload(config, ticks)
    core.reload(
        election_ticks=ticks,
        max_message_bytes=config.max_message_bytes,
        max_uncommitted_bytes=config.max_uncommitted_bytes,
        max_inflight_messages=config.max_inflight_messages,
        max_inflight_bytes=config.max_inflight_bytes,
    )
    driver.reload(config)
    changes.reload(config)
    driver.snapshotter.reload(config)
    parts.wal.limit(segment_bytes=config.segment_bytes, reserve_bytes=config.reserve_bytes)
    parts.levels.hold_level = config.hold_level
    parts.idle_sessions.idle_s = config.session_idle_s
    driver.asking.heartbeat_s = config.heartbeat_s
    driver.node_log.reload(config.election_s)
    driver.digests.reload(config.election_s)
    driver.schedule()
