"""Requests that schemathesis makes of `/openapi.json`, valid and not, and its judgement of the answers.

Each answer must have a status, a content type, header fields and a body as declared; what the document does not allow
must be refused with a 4xx; and no request may get a 500.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Final
from urllib.request import urlopen

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

__all__ = ["Exploration", "explore"]

PATIENCE_S: Final = 10
"""For an answer: much longer than `TIMEOUT`."""

TIMEOUT: Final = "100ms"
"""The deadline of each request that can have one, and the wait of a long poll: they would take their full time."""

ENDLESS: Final = ("/events", "/watch")
"""Paths whose answers end only when the client leaves."""

TOLERANT: Final = ("/batch",)
"""Paths that answer 200 to what is wrong in a part: the part has an error of its own."""

ALLOWED_5XX: Final = ("501", "503", "504", "507")

LEFT_OUT: Final = ("positive_data_acceptance", "ensure_resource_availability", "use_after_free")
"""Checks for what a schema can't tell: a time above its limit, a member that is not there, a key that was deleted."""


@dataclass
class Exploration:
    """What was asked and found. `answers` counts by route and status."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def walked(self) -> set[str]:
        """Each method and path that was asked, such as `GET /keys`."""
        return {label for label, _ in self.answers}


def explore(url: str, *, examples: int, coverage: bool, seed: int, leave_out: tuple[str, ...] = ()) -> Exploration:
    """So many drawn requests to each route but those of the paths `leave_out`; with `coverage` also each edge of each
    schema, one by one. It blocks. Routes that stream without an end get requests that they must refuse, alone.
    """
    off = {"enabled": False}
    settings = {
        "base-url": url,
        "seed": seed,
        "continue-on-failure": True,
        "request-timeout": PATIENCE_S,
        "generation": {"max-examples": examples, "no-shrink": True, "database": "none"},
        "phases": {"examples": off, "stateful": off, "coverage": {"enabled": coverage}},
        "parameters": {"query.timeout": TIMEOUT, "query.wait": "10ms"},
        "operations": [
            *({"include-path": path, "generation": {"mode": "negative"}} for path in ENDLESS),
            *({"include-path": path, "checks": {"negative_data_rejection": off}} for path in TOLERANT),
        ],
        "max-stream-events": 1,
        "checks": {
            "negative_data_rejection": {"expected-statuses": ["4xx"]},
            "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", *ALLOWED_5XX]},
            **dict.fromkeys(LEFT_OUT, off),
        },
    }
    with urlopen(f"{url}/openapi.json") as answer:  # taken by schemathesis itself it would not ask this route
        document = json.load(answer)
    schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(settings))
    chosen = schema.exclude(path=list(leave_out)) if leave_out else schema
    found = Exploration()
    for event in from_schema(chosen).execute():
        match event:
            case events.ScenarioFinished():
                _note(event, found)
            case events.NonFatalError():
                found.faults.append(f"{event.label}: {event.value!r}")
            case events.FatalError():
                raise event.exception
    return found


def _note(event: events.ScenarioFinished, found: Exploration) -> None:
    label = event.recorder.label
    for interaction in event.recorder.interactions.values():
        if interaction.response is not None:
            found.answers[label, interaction.response.status_code] += 1
    for checks in event.recorder.checks.values():
        for check in checks:
            if check.failure_info is not None:
                message = check.failure_info.failure.message
                found.faults.append(f"{label}: {check.name}: {message}\n{check.failure_info.code_sample}")
