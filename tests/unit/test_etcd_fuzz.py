"""Random requests to etcd's gateway: each is answered, by a status that says that the server did not fail."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncline.server.etcd.errors import UNKNOWN
from syncline.server.etcd.json_codec import encode
from syncline.server.etcd.methods import METHODS
from tests.helpers.etcd_messages import messages
from tests.helpers.etcd_wire import EtcdWire
from tests.helpers.http_wire import answers_so_far

STATUSES = {200, 400, 403, 404, 429, 501, 503}
FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


async def is_answered(wire: EtcdWire, route: str, body: bytes, *, streams: bool) -> None:
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    wire.send(head.encode() + body)
    await wire.settle()
    answers = answers_so_far(wire.received)
    if not answers and streams:
        return  # it stays open
    status, answer = answers[-1].status, answers[-1].body
    if status == 500:  # errors of etcd's client library, which its servers pass on without a code
        assert json.loads(answer)["code"] == UNKNOWN, answer
    else:
        assert status in STATUSES, answer
    assert b"the server failed" not in answer


@FUZZ
@given(name=st.sampled_from(sorted(METHODS)), data=st.data())
async def test_etcd_random_message_is_answered(name: str, data: st.DataObject) -> None:
    method = METHODS[name]
    body = encode(method.request, data.draw(messages(method.request)))
    await is_answered(EtcdWire(), method.route, body, streams=method.streams)


@FUZZ
@given(body=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()), data=st.data())
async def test_etcd_random_body_is_answered(body: bytes, data: st.DataObject) -> None:
    method = METHODS[data.draw(st.sampled_from(sorted(METHODS)))]
    await is_answered(EtcdWire(), method.route, body, streams=method.streams)
