"""What a route declares of itself. `/openapi.json` is made of these declarations.

A new route declares itself where its handler is. The handler reads parameters and body by the same objects, so that
the document can't differ from what is done:

    LIMIT: Final = Integer("limit", "The most keys of one page.", default=1000, low=1, high=10_000)
    QUERY: Final = READ_QUERY.plus(LIMIT)
    BODY: Final = JsonBody(CompactBody, what="a compaction", about="What to compact.", max_bytes=64 * KIB)

    def add_to(self, router: Router) -> None:
        route = Route(
            "POST",
            "/compact",
            summary="Drop old revisions",
            access=COMPACT,
            query=QUERY,
            body=BODY,
            answers={200: Reply("The oldest revision that can be read.", CompactReply)},
            errors=(*WRITING, FUTURE_REVISION),
        )
        router.declare(route, self.compact)

    def compact(self, request: Request, respond: Respond) -> None:
        limit = LIMIT.of(QUERY.parse(request.query))
        body = BODY.read(request)

Structs of bodies and answers are in `syncline.client.schemas`; those of bodies forbid unknown fields. Each status and
code that the handler can answer is in `answers`, or in `errors` (see `error_codes.py`; those that any route can answer
are added by themselves). GET routes answer HEAD as well: that needs no declaration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from syncline.server.api.bodies import Body
from syncline.server.api.error_codes import EVERYWHERE, GUARDED, UNSAFE, ErrorCode
from syncline.server.api.parameters import Parameter, Query
from syncline.server.auth.access import OWN, Access
from syncline.server.http.fields import CONDITIONAL_FIELDS, SAFE_METHODS

__all__ = [
    "ETAG",
    "IDEMPOTENCY_KEY",
    "LEADER",
    "READ_IF",
    "READ_UNLESS",
    "REPLAYED",
    "REVISION",
    "WRITE_IF",
    "WRITE_UNLESS",
    "Content",
    "Field",
    "Reply",
    "Route",
]


class Field(msgspec.Struct, frozen=True):
    """A header field of a request or an answer. `pattern` is a regular expression for its whole value. An answer has
    it always, unless it is `optional`.
    """

    name: str
    about: str
    pattern: str = ""
    optional: bool = False


_STRONG: Final = '"?[0-9]{1,19}"?'
_ANY: Final = rf"(\*|(W/)?{_STRONG}(, ?(W/)?{_STRONG})*)"
READ_IF: Final = Field("If-Match", "Only if the key is at one of these revisions; `*`: at any.", _ANY)
READ_UNLESS: Final = Field("If-None-Match", "Answer 304 if the key is at one of these revisions; `*`: at any.", _ANY)
WRITE_IF: Final = Field(
    "If-Match", 'Only if the key is at this revision, such as `"42"`; `*`: only if it exists.', rf"(\*|{_STRONG})"
)
WRITE_UNLESS: Final = Field("If-None-Match", "`*`: only if the key does not exist.", r"\*")
IDEMPOTENCY_KEY: Final = Field(
    "Idempotency-Key",
    "The request takes effect once for this key, however often it is sent: `SESSION/SEQUENCE`, with a session of `POST"
    " /session`, or a free text of up to 128 characters. `idempotency.propose` reads it.",
    r'"?[!-+\--~]{1,128}"?',
)
REPLAYED: Final = Field(
    "Idempotency-Replayed", "This is the recorded answer to an earlier request.", "true", optional=True
)
ETAG: Final = Field("ETag", "The revision that last changed the key, in double quotes.", '"[0-9]+"')
LEADER: Final = Field(
    "Syncline-Leader",
    "The leader's URL for clients. Only from a node that does not lead: a write sent there takes one hop less.",
    optional=True,
)
REVISION: Final = Field("Syncline-Revision", "The revision of the store at this moment; of a write its own.", "[0-9]+")

Content: TypeAlias = type | str
"""A struct of `syncline.client.schemas`, sent as JSON, or the media type of anything else."""


_NO_QUERY: Final = Query()


class Reply(msgspec.Struct, frozen=True):
    """What a route answers with one status. Without `contents` it has no body."""

    about: str
    contents: tuple[Content, ...] = ()
    fields: tuple[Field, ...] = ()


class _Place(msgspec.Struct, frozen=True):
    methods: str
    pattern: str


class Route(_Place, frozen=True, kw_only=True):
    """One declared route, for one handler. `methods` such as "GET" or "PUT POST" mean the same on it.

    What `Accept` chooses is in `contents` of the answers, and not a field of the request: OpenAPI has it so.
    `argument` declares what the braces of the pattern match. `fields` are those of the request that the handler reads.
    `access` is what it needs while clients need credentials: no route is without.
    The router refuses each of `CONDITIONAL_FIELDS` that is not among them; with `conditions` the handler does that.
    """

    summary: str
    access: Access
    about: str = ""
    argument: Parameter | None = None
    query: Query = _NO_QUERY
    fields: tuple[Field, ...] = ()
    body: Body | None = None
    answers: Mapping[int, Reply]
    errors: tuple[ErrorCode, ...] = ()
    conditions: bool = False

    def __post_init__(self) -> None:
        assert ("{" in self.pattern) == (self.argument is not None), f"{self.pattern}: its argument is to be declared"
        assert self.body is None or not {"GET", "DELETE"} & set(self.methods.split()), f"{self.pattern}: no body here"

    @property
    def writes(self) -> bool:
        """Whether it may change something."""
        return SAFE_METHODS.isdisjoint(self.methods.split())

    @property
    def audited(self) -> bool:
        """Whether it changes the cluster or its users: the audit log has a line for each request."""
        return self.writes and (self.access.admin or self.access is OWN or self.access.operation is not None)

    @property
    def refused_fields(self) -> frozenset[bytes]:
        """The conditional fields that the router refuses."""
        if self.conditions:
            return frozenset()
        return CONDITIONAL_FIELDS - {one.name.lower().encode() for one in self.fields}

    @property
    def all_errors(self) -> tuple[ErrorCode, ...]:
        """Its own and those that need no declaration, by status."""
        found = {*self.errors, *EVERYWHERE, *(UNSAFE if self.writes else ()), *(() if self.access.open else GUARDED)}
        return tuple(sorted(found, key=lambda one: (one.status, one.code)))
