"""Check that a peer port that other machines can reach is protected."""

from __future__ import annotations

from syncline.errors import ConfigError
from syncline.node.config import Config
from syncline.platform.network import is_loopback, name_doubt
from syncline.transport.messages import PeerAddress

__all__ = ["check_exposure"]


async def check_exposure(config: Config) -> None:
    """Raise `ConfigError` if other machines can reach the peer port, and neither a secret nor TLS protects it."""
    if config.secret or config.peer_tls is not None or config.insecure_peers:
        return
    host = PeerAddress.parse(config.listen, setting="listen").host
    if not await is_loopback(host):
        raise ConfigError(
            f"node {config.name} listens for peers on {config.listen}{await name_doubt(host)}, which other machines can"
            " reach, without a secret or TLS: give all nodes the same Config(secret=…), 32 random bytes"
            " (`syncline secret new` makes them), or peer_tls; or accept the risk with insecure_peers=True"
        )
