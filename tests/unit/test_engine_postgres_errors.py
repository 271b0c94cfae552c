"""What a node does with the errors of PostgreSQL and of PgBouncer, by their texts. `make compat` has the servers."""

from __future__ import annotations

import pytest

from syncline.engines.backend import BackendLost
from syncline.engines.postgres_errors import connecting_failed, query_failed
from syncline.errors import ConfigError


class Diagnosis:
    """The part of an error of psycopg that is read."""

    def __init__(self, text: str) -> None:
        self.message_primary = text


class PostgresError(Exception):
    """Stands in for an error of psycopg, which may be missing here."""

    def __init__(self, text: str, sqlstate: str | None = None) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.diag = Diagnosis(text)


@pytest.mark.parametrize(
    "text",
    [
        "server does not support SSL, but SSL was required",
        'FATAL: unrecognized configuration parameter "junk"',
        'FATAL: invalid value for parameter "lock_timeout": "x"',
        'invalid sslmode value: "junk"',
        'could not read certificate file "c.pem": No such file or directory',
        'private key file "k.pem" has group or world access',
        'server certificate for "a" does not match host name "b"',
        "FATAL: no such database: nodb",
        "FATAL: no such user: nobody",
        "FATAL: SSL required",
        "failed to resolve host 'h': [Errno -8] Servname not supported for ai_socktype",
        "FATAL: unsupported startup parameter: options",
    ],
)
def test_postgres_connection_that_always_fails_is_a_config_error(text: str) -> None:
    """Else `open` tries it again, in vain, until its deadline."""
    error = connecting_failed("db", PostgresError(text))
    assert isinstance(error, ConfigError)
    assert text in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "connection refused",
        "FATAL: the database system is starting up",
        "FATAL: sorry, too many clients already",
        "FATAL: query_wait_timeout",
        "FATAL: pgbouncer cannot connect to server",
        "session is read-only",
    ],
)
def test_postgres_connection_that_may_work_later_is_tried_again(text: str) -> None:
    assert isinstance(connecting_failed("db", PostgresError(text)), BackendLost)


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        (
            "transaction blocks not allowed in statement pooling mode",
            "08P01",
            "set pool_mode to transaction or session",
        ),
        ("permission denied for schema public", "42501", "the first open needs CREATE"),
        ('relation "syncline_entries" does not exist', "42P01", "the tables were removed"),
        ('column "id" does not exist', "42703", "another program has made or changed"),
    ],
)
def test_postgres_statement_that_is_refused_says_what_to_do(text: str, code: str, hint: str) -> None:
    error = query_failed("db", PostgresError(text, code))
    assert isinstance(error, ConfigError)
    assert f"{text}: {hint}" in str(error)
