"""Check that a server reachable from other machines is protected: from nodes without a proof, and from web pages."""

from __future__ import annotations

from urllib.parse import urlsplit

from syncline.errors import ConfigError
from syncline.platform.network import is_loopback
from syncline.server.addresses import split_address
from syncline.server.config import ServerConfig
from syncline.server.http.cross_site import CrossSitePolicy
from syncline.transport.messages import PeerAddress

__all__ = ["check_exposure", "cross_site_policy"]


async def check_exposure(config: ServerConfig) -> None:
    """Raise `ConfigError` if other machines can reach the peer port, and neither a secret nor TLS protects it."""
    if config.peer_secret or config.peer_secret_file or config.peer_tls_cert:
        return
    if config.insecure_peers or config.insecure:
        return
    addresses = {"peer_listen": config.peer_listen, "peer_advertise": config.peer_advertise}
    addresses |= {f"initial_cluster: {name}": address for name, address in config.initial_cluster.items()}
    for setting, address in addresses.items():
        if address and not await is_loopback(PeerAddress.parse(address, setting=setting).host):
            raise ConfigError(
                f"{setting} is {address}: other machines can take part without a secret or TLS. Make a"
                " cluster secret with `syncline secret new`, copy the file to each node, and give"
                " --peer-secret-file FILE (or SYNCLINE_PEER_SECRET); or give peer TLS. --insecure-peers accepts the"
                " risk"
            )


async def cross_site_policy(config: ServerConfig) -> CrossSitePolicy:
    """The policy for requests of web pages, from the address on which the server listens."""
    host = split_address(config.http_listen, any_port=True)[0] if config.http_listen else ""
    return CrossSitePolicy(
        loopback=bool(host) and await is_loopback(host),
        own_hosts=(host, urlsplit(config.http_advertise).hostname or ""),
        allowed_hosts=config.allowed_hosts,
        allowed_origins=config.allowed_origins,
    )
