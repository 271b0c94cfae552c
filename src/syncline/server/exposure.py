"""Check that a server that other machines can reach is protected: its peers, its clients, and from web pages."""

from __future__ import annotations

from urllib.parse import urlsplit

from syncline.errors import ConfigError
from syncline.platform.network import is_loopback, name_doubt
from syncline.server.addresses import split_address
from syncline.server.config import ServerConfig
from syncline.server.http.cross_site import CrossSitePolicy
from syncline.transport.candidates import is_wildcard
from syncline.transport.messages import PeerAddress

__all__ = ["advertised_host", "check_exposure", "cross_site_policy", "offers_etcd"]


async def check_exposure(config: ServerConfig) -> None:
    """Raise `ConfigError` if other machines can reach a port that nothing protects.

    The peer port needs a secret or TLS, the clients' port TLS; or the settings accept the risk.
    """
    await _check_clients(config)
    await _check_peers(config)


async def _check_clients(config: ServerConfig) -> None:
    if config.http_tls_cert or config.insecure_clients or config.insecure or not config.http_listen:
        return
    host = split_address(config.http_listen, any_port=True)[0]
    if not await is_loopback(host):
        raise ConfigError(
            f"http_listen is {config.http_listen}{await name_doubt(host)}: other machines can read and change"
            " everything, and what they send can be read on the way. Make certificates with `syncline certs` and give"
            " --tls-dir DIRECTORY (or --http-tls-cert and --http-tls-key); or listen on 127.0.0.1. --insecure-clients"
            " accepts the risk"
        )


async def _check_peers(config: ServerConfig) -> None:
    if config.peer_secret or config.peer_secret_file or config.peer_tls_cert:
        return
    if config.insecure_peers or config.insecure:
        return
    addresses = {"peer_listen": config.peer_listen, "peer_advertise": config.peer_advertise}
    addresses |= {f"initial_cluster: {name}": address for name, address in config.initial_cluster.items()}
    for setting, address in addresses.items():
        if not address or await is_loopback(host := PeerAddress.parse(address, setting=setting).host):
            continue
        raise ConfigError(
            f"{setting} is {address}{await name_doubt(host)}: other machines can take part without a secret or TLS."
            " Make a cluster secret with `syncline secret new`, copy the file to each node, and give"
            " --peer-secret-file FILE (or SYNCLINE_PEER_SECRET); or give peer TLS. --insecure-peers accepts the risk"
        )


def advertised_host(config: ServerConfig) -> str:
    """The host by which clients reach the server, as far as the settings name one; empty: they do not."""
    if config.http_advertise:
        return urlsplit(config.http_advertise).hostname or ""
    host = split_address(config.http_listen, any_port=True)[0] if config.http_listen else ""
    return "" if is_wildcard(host) else host


async def cross_site_policy(config: ServerConfig) -> CrossSitePolicy:
    """The policy for requests of web pages, from the address on which the server listens."""
    host = split_address(config.http_listen, any_port=True)[0] if config.http_listen else ""
    return CrossSitePolicy(
        loopback=bool(host) and await is_loopback(host),
        own_hosts=(host, urlsplit(config.http_advertise).hostname or ""),
        allowed_hosts=config.allowed_hosts,
        allowed_origins=config.allowed_origins,
    )


async def offers_etcd(config: ServerConfig) -> bool:
    """Whether clients of etcd are served."""
    if config.etcd_api == "loopback":
        host = split_address(config.http_listen, any_port=True)[0] if config.http_listen else ""
        return bool(host) and await is_loopback(host)
    return config.etcd_api == "on"
