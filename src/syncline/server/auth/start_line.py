"""The line about credentials that a node logs at its start."""

from __future__ import annotations

import logging

from syncline.platform.network import is_loopback
from syncline.server.addresses import split_address
from syncline.server.config import ServerConfig

__all__ = ["tell_credentials"]

logger: logging.Logger = logging.getLogger("syncline.server")


async def tell_credentials(config: ServerConfig, *, needed: bool) -> None:
    """Say whether clients need credentials; a warning if they don't and other machines reach the port."""
    if needed:
        logger.info("clients need credentials")
        return
    host = split_address(config.http_listen, any_port=True)[0] if config.http_listen else ""
    exposed = bool(host) and not await is_loopback(host)
    logger.log(
        logging.WARNING if exposed else logging.INFO,
        "clients need no credentials: each that reaches %s may do everything (docs/users.md)",
        config.http_listen or "the mounted routes",
    )
