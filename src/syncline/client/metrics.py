"""Read the metrics of one server: the request behind `syncline top`."""

from __future__ import annotations

from syncline.client.caller import ClientRequest
from syncline.client.calls import ServerCalls, as_read

__all__ = ["read_metrics"]


async def read_metrics(client: ServerCalls, *, timeout_s: float) -> str:
    """The text of `/metrics`, in the format of Prometheus.

    Raises:
        OperationError: no server answers, or it refused it.
    """
    request = ClientRequest(method="GET", target="/metrics", idempotent=True, timed=False)
    with as_read():
        return (await client._answer(request, timeout_s)).body.decode("utf-8", "replace")
