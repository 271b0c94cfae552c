"""Declared parameters and bodies: what they read is what their schemas tell."""

from __future__ import annotations

import re
from urllib.parse import quote

import msgspec
import pytest
from openapi_schema_validator import OAS31Validator

from syncline.server.api.bodies import JsonBody, RawBody
from syncline.server.api.errors import RequestError
from syncline.server.api.parameters import Boolean, Choice, Integer, Octets, Parameter, Query, Seconds, Text
from syncline.server.http.request import Request

LIMIT = Integer("limit", "How many.", default=5, low=1, high=10)
WAIT = Seconds("wait", "How long.", default_s=5.0, high_s=60.0)
LEVEL = Choice("level", "How fresh.", choices=("new", "old"))
DEEP = Boolean("deep", "Whether.")
VALUES = Boolean("values", "Whether.", others=("base64",))
WORDS = ("", "0", "1", "5", "10", "11", "-1", "1.0", "true", "false", "True", "base64", "5s", "60s", "ms", "new", "x")


def read(parameter: Parameter, word: str) -> bool:
    """Whether the parameter takes a word."""
    parameters = Query(parameter).parse(f"{parameter.name}={quote(word)}".encode())
    try:
        if isinstance(parameter, Boolean):
            parameter.word(parameters)
        else:
            assert isinstance(parameter, Integer | Seconds | Choice)
            parameter.of(parameters)
    except RequestError as error:
        return parameter.name not in str(error)
    return True


def allows(parameter: Parameter, word: str) -> bool:
    """Whether its schema allows a word, which a query gives as a text, a number or a boolean."""
    values: list[object] = [word]
    if re.fullmatch("-?[0-9]+", word):
        values.append(int(word))
    if word in ("true", "false"):
        values.append(word == "true")
    return any(OAS31Validator(parameter.schema()).is_valid(value) for value in values)


@pytest.mark.parametrize("parameter", [LIMIT, LEVEL, DEEP, VALUES], ids=lambda one: one.name)
def test_parameter_takes_the_words_that_its_schema_allows(parameter: Parameter) -> None:
    taken = {word for word in WORDS if read(parameter, word)}
    assert taken == {word for word in WORDS if allows(parameter, word)}
    assert taken
    assert taken < set(WORDS)


def test_time_parameter_takes_less_than_its_schema_alone_allows() -> None:
    """No schema can bound a time; its description does."""
    taken = {word for word in WORDS if read(WAIT, word)}
    assert taken == {"1", "5", "10", "11", "1.0", "5s", "60s"}
    assert taken < {word for word in WORDS if allows(WAIT, word)} <= {*taken, "0"}
    assert "above zero, at most 60s" in str(WAIT.schema()["description"])


def test_parameters_that_are_not_given_have_their_defaults() -> None:
    key, name = Octets("key", "The key.", required=True), Text("name", "The name.", default="a")
    level = Seconds("age", "How old.", high_s=5.0)
    none = Query(LIMIT, WAIT, LEVEL, DEEP, VALUES, key, name, level).parse(b"")
    assert (LIMIT.of(none), WAIT.of(none), LEVEL.of(none), DEEP.of(none), VALUES.word(none)) == (
        5,
        5.0,
        "new",
        False,
        "false",
    )
    assert (key.of(none), name.of(none), level.given(none)) == (None, "a", None)


def test_parameter_that_its_route_does_not_declare_can_not_be_read() -> None:
    """So a document can't leave out a parameter that a handler reads."""
    with pytest.raises(AssertionError, match="not declared"):
        LIMIT.of(Query(WAIT).parse(b""))
    assert LIMIT.of(Query(LIMIT).parse(b"limit=7")) == 7


def test_query_takes_no_two_parameters_of_one_name() -> None:
    with pytest.raises(AssertionError):
        Query(LIMIT, LIMIT)
    assert Query(LIMIT).plus(WAIT).accepted == {"limit", "wait"}


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """A body."""

    name: str
    count: int = 0


BODY = JsonBody(Wanted, what="a wish", about="What is wanted.", max_bytes=100)


def test_json_body_gives_its_struct() -> None:
    assert BODY.read(Request("POST", b"/", b"", {}, b'{"name": "a", "count": 2}')) == Wanted("a", 2)
    assert BODY.forms() == {"application/json": Wanted}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "a wish"),
        (b"[]", "a wish"),
        (b"{}", "`name`"),
        (b'{"name": 1}', "$.name"),
        (b'{"name": "a", "count": "2"}', "$.count"),
        (b'{"name": "a", "count": 1e99}', "$.count"),
        (b'{"name": "a", "bogus": 2}', "`bogus`"),
        (b'{"name": "a", "name": "b"}', "'name'"),
        (b'{"name": "\xff"}', "UTF-8"),
        (b"[" * 100, "a wish"),
    ],
)
def test_json_body_that_is_wrong_is_400_and_names_the_field(body: bytes, named: str) -> None:
    with pytest.raises(RequestError) as caught:
        BODY.read(Request("POST", b"/", b"", {}, body))
    assert (caught.value.status, caught.value.code) == (400, "bad_request")
    assert named.lower() in str(caught.value).lower()  # msgspec's versions write `utf-8` or `UTF-8`


def test_json_body_above_its_limit_is_413_and_foreign_charset_415() -> None:
    with pytest.raises(RequestError) as caught:
        BODY.read(Request("POST", b"/", b"", {}, b'{"name": "a"}' + b" " * 100))
    assert caught.value.status == 413
    with pytest.raises(RequestError) as caught:
        BODY.read(Request("POST", b"/", b"", {b"content-type": b"application/json; charset=utf-16"}, b"{}"))
    assert caught.value.status == 415


def test_raw_body_tells_its_limit() -> None:
    assert RawBody("The value.", 7).forms()["application/octet-stream"] == {
        "type": "string",
        "format": "binary",
        "maxLength": 7,
    }
