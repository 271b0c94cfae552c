"""The server: a node of the cluster, its key-value state machine, and HTTP in front of them.

    async with KvServer.open(ServerConfig(name="a", data_dir="data/a", http_listen="127.0.0.1:8080")) as server:
        print(server.http_url)

`syncline serve` runs one. A program that runs an ASGI server of its own mounts `AsgiApp` instead.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from syncline.server.api.site import Site
    from syncline.server.app import KvServer
    from syncline.server.asgi import AsgiApp
    from syncline.server.config import ServerConfig, load_config
    from syncline.server.http.limits import HttpLimits
    from syncline.server.metrics import Counter, Family, Gauge, Histogram, Instrument, Registry

# Loaded when they are first used: the command reads settings without starting a server.
_HOMES: Final = {
    "syncline.server.app": ("KvServer",),
    "syncline.server.asgi": ("AsgiApp",),
    "syncline.server.config": ("ServerConfig", "load_config"),
    "syncline.server.http.limits": ("HttpLimits",),
    "syncline.server.metrics": ("Counter", "Family", "Gauge", "Histogram", "Instrument", "Registry"),
    "syncline.server.api.site": ("Site",),
}

__all__ = [
    "AsgiApp",
    "Counter",
    "Family",
    "Gauge",
    "Histogram",
    "HttpLimits",
    "Instrument",
    "KvServer",
    "Registry",
    "ServerConfig",
    "Site",
    "load_config",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            found: object = getattr(importlib.import_module(home), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
