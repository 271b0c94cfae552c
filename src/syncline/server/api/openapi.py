"""`GET /openapi.json`: the interface as an OpenAPI 3.1 document, made of what the routes declare.

It is made when it is first asked for. HEAD and OPTIONS are answered by each path and are left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from syncline.client.schemas import ErrorAnswer
from syncline.platform.texts import encode_json
from syncline.server.api.bodies import Body
from syncline.server.api.declare import Field, Reply, Route
from syncline.server.api.error_codes import ErrorCode
from syncline.server.api.parameters import Parameter, Query, Schema
from syncline.server.api.router import Router
from syncline.server.api.schema_rules import RULES
from syncline.server.auth.access import OPEN
from syncline.server.http.request import Request
from syncline.server.http.response import JSON, NO_CACHE, Respond, Response, status_line
from syncline.version import __version__

__all__ = ["DocumentRoute", "document"]

OPENAPI: Final = "3.1.0"
_JSON: Final = "application/json"
_COMPONENTS: Final = "#/components/schemas/{name}"
_QUERY: Final = Query()
_ETAG: Final = Field("ETag", "Of this document.", '"[0-9a-f]{32}"')
_NONE_MATCH: Final = Field("If-None-Match", "Answer 304 if the document is still this one.")


class DocumentRoute:
    """The route of the document. `routes` gives what the routes declare; it is asked once, when all are registered."""

    def __init__(self, routes: Callable[[], list[Route]]) -> None:
        self._routes = routes
        self._made: tuple[str, bytes, bytes] | None = None
        """The mount of the newest document, the document, and its ETag. There is one mount, so one is kept."""

    def add_to(self, router: Router) -> None:
        """Register the route."""
        route = Route(
            "GET",
            "/openapi.json",
            summary="Read this document",
            access=OPEN,
            query=_QUERY,
            fields=(_NONE_MATCH,),
            answers={
                200: Reply("The interface of this server.", (_JSON,), (_ETAG,)),
                304: Reply("It is still the one of `If-None-Match`.", (), (_ETAG,)),
            },
        )
        router.declare(route, self.get)

    def get(self, request: Request, respond: Respond) -> None:
        """Answer with the document."""
        _QUERY.parse(request.query)
        if self._made is None or self._made[0] != request.mount:
            content = encode_json(document(self._routes(), mount=request.mount)) + b"\n"
            etag = b'"%s"' % hashlib.blake2b(content, digest_size=16).hexdigest().encode()
            self._made = (request.mount, content, etag)
        _, content, etag = self._made
        head = b"%sETag: %s\r\n" % (NO_CACHE, etag)
        asked = request.headers.get(b"if-none-match", b"")
        if etag in asked or asked == b"*":
            respond(Response(304, status_line(304) + head))
            return
        respond(Response(200, b"%s%s%sContent-Length: %d\r\n" % (status_line(200), JSON, head, len(content)), content))


_SCHEMES: Final = {"basic": {"type": "http", "scheme": "basic"}, "bearer": {"type": "http", "scheme": "bearer"}}
_SECURITY: Final[list[Schema]] = [{}, {"basic": []}, {"bearer": []}]
"""The first: no credential, as long as the cluster asks for none."""


def document(routes: Iterable[Route], *, mount: str = "") -> Schema:
    """The OpenAPI document of these routes. `mount` is the path below which an application has mounted them."""
    routes = list(routes)
    structs = sorted(_structs(routes), key=lambda one: one.__name__)
    _, schemas = msgspec.json.schema_components(structs, schema_hook=_any, ref_template=_COMPONENTS)
    for kind, rule in RULES.items():
        if kind.__name__ in schemas:
            schemas[kind.__name__].update(rule)
    shared = _ErrorReplies()
    paths: dict[str, dict[str, Schema]] = {}
    for route in routes:
        operations = paths.setdefault(route.pattern.replace("...}", "}"), {})
        for method in route.methods.split():
            assert method.lower() not in operations, (method, route.pattern)
            operations[method.lower()] = _operation(route, method, shared)
    found: Schema = {
        "openapi": OPENAPI,
        "info": {
            "title": "Syncline",
            "version": __version__,
            "summary": "A strongly consistent key-value store, the same on each node of the cluster.",
            "description": "Each GET answers HEAD as well, and each path OPTIONS. `docs/http.md` is the manual.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": schemas, "responses": shared.responses, "securitySchemes": _SCHEMES},
    }
    return {**found, "servers": [{"url": mount}]} if mount else found


def _any(kind: type) -> Schema:
    """The schema of a value of any type."""
    assert kind is object, kind
    return {"description": "A value of any type."}


def _structs(routes: list[Route]) -> set[type]:
    found: set[type] = {ErrorAnswer}
    for route in routes:
        schemas = [one for answer in route.answers.values() for one in answer.contents]
        bodies = route.body.forms().values() if route.body is not None else ()
        found.update(one for one in (*schemas, *bodies) if isinstance(one, type))
    return found


def _operation(route: Route, method: str, shared: _ErrorReplies) -> Schema:
    operation: Schema = {
        "operationId": _operation_id(method, route.pattern),
        "tags": re.findall("[a-z]+", route.pattern)[:1],
        "summary": route.summary,
        "description": " ".join(filter(None, (route.about, f"Needs: {route.access.about}"))),
        "security": [] if route.access.open else _SECURITY,
        "parameters": list(_parameters(route)),
        "requestBody": None if route.body is None else _body(route.body),
        "responses": _responses(route, shared),
    }
    return {name: value for name, value in operation.items() if value}


def _operation_id(method: str, pattern: str) -> str:
    return "_".join([method.lower(), *re.findall("[a-z]+", pattern)])


def _parameters(route: Route) -> Iterable[Schema]:
    if route.argument is not None:
        yield _parameter(route.argument, "path")
    for parameter in route.query.parameters:
        yield _parameter(parameter, "query")
    for field in route.fields:
        yield {"name": field.name, "in": "header", "description": field.about, "schema": _field(field)}


def _parameter(parameter: Parameter, where: str) -> Schema:
    found: Schema = {"name": parameter.name, "in": where, "description": parameter.about, "schema": parameter.schema()}
    return {**found, "required": True} if parameter.required else found


def _field(field: Field) -> Schema:
    return {"type": "string", "pattern": f"^{field.pattern}$"} if field.pattern else {"type": "string"}


def _body(body: Body) -> Schema:
    content = {media_type: {"schema": _schema(form)} for media_type, form in body.forms().items()}
    return {"description": body.about, "required": body.required, "content": content}


def _schema(content: type | Schema) -> Schema:
    return content if isinstance(content, dict) else {"$ref": _COMPONENTS.format(name=content.__name__)}


# --- answers


def _responses(route: Route, shared: _ErrorReplies) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    by_status: dict[int, list[ErrorCode]] = {}
    for error in route.all_errors:
        by_status.setdefault(error.status, []).append(error)
    for status in sorted({*route.answers, *by_status}):
        answer, errors = route.answers.get(status), by_status.get(status, [])
        found[str(status)] = shared.reference(errors) if answer is None else _answer(answer, errors)
    return found


def _answer(answer: Reply, errors: list[ErrorCode]) -> Schema:
    contents: dict[str, list[Schema]] = {}
    for content in answer.contents:
        if isinstance(content, str):
            contents.setdefault(content, [])
        else:
            contents.setdefault(_JSON, []).append(_schema(content))
    if errors:
        contents.setdefault(_JSON, []).append(_error(errors))
    response: Schema = {"description": " ".join([answer.about, *map(_shown, errors)])}
    if answer.fields:
        response["headers"] = {
            field.name: {"description": field.about, "required": not field.optional, "schema": _field(field)}
            for field in answer.fields
        }
    if contents:
        response["content"] = {media_type: _one_of(schemas) for media_type, schemas in contents.items()}
    return response


def _one_of(schemas: list[Schema]) -> Schema:
    if not schemas:
        return {}
    return {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}


def _error(errors: list[ErrorCode]) -> Schema:
    codes: Schema = {"properties": {"code": {"enum": [one.code for one in errors]}}}
    return {"allOf": [_schema(ErrorAnswer), {"properties": {"error": codes}}]}


def _shown(error: ErrorCode) -> str:
    return f"`{error.code}`: {error.about}"


class _ErrorReplies:
    """The answers that consist of errors alone: routes share them."""

    def __init__(self) -> None:
        self.responses: dict[str, Schema] = {}
        self._names: dict[tuple[ErrorCode, ...], str] = {}

    def reference(self, errors: list[ErrorCode]) -> Schema:
        """A reference to the answer for these errors, all of one status."""
        key = tuple(errors)
        name = self._names.get(key)
        if name is None:
            status = errors[0].status
            number = sum(one[0].status == status for one in self._names) + 1
            name = self._names[key] = f"error_{status}_{number}"
            content = {_JSON: {"schema": _error(errors)}}
            self.responses[name] = {"description": " ".join(map(_shown, errors)), "content": content}
        return {"$ref": f"#/components/responses/{name}"}
