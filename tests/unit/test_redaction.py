"""Secrets of many kinds in the texts of a debug bundle: none is left, and JSON stays JSON."""

from __future__ import annotations

import json
import time

import pytest

from syncline.cli.debug.redaction import Redactor, is_secret_name

PLANTED = [
    "https://SECRET1234567890@host/x",
    "redis://:SECRETSECRET@host/0",
    "postgres://u:p@SECRET@db/x",
    "postgres://u:ab/SECRET@db/x",
    "Authorization: Basic U0VDUkVUOlNFQ1JFVA==SECRET",
    "Authorization: Token abc SECRET",
    "(b'authorization', b'Bearer SECRET12345678')",
    r'{"msg":"{\"password\": \"SECRET\"}"}',
    r'{"password": "ab\"SECRET"}',
    "GET /x?access_token=SECRET&y=1",
    "pwd=SECRET PGPASSWORD=SECRET",
    "AWS_SECRET_ACCESS_KEY=abcd/SECRET+x",
    "AccountKey=SECRET==;EndpointSuffix=x",
    "MIIESECRET\nSECRET=\n-----END RSA PRIVATE KEY-----\nrest",
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nSECRET",
    'tokens = ["SECRET1", "SECRET2"]',
    '{"tokens": ["SECRET1", "SECRET2"], "n": 1}',
    "password: correct horse SECRET staple",
    "password='it''s SECRET'",
    "Cookie: session=SECRET; other=SECRET",
    "X-API-Key: SECRET",
    "dsn host=db user=u password=SECRET dbname=x",
    "x eyJhbGciSECRET.eyJzdWIiOiSECRET.dozjgSECRET y",
    "key ghp_SECRETSECRETSECRETSECRET",
    "$scrypt$n=1$SECRET$SECRET",
    "a known one: s%C3%A4cret%2F1 s\\u00e4cret/1 s\u00e4cret/1",
]


@pytest.mark.parametrize("text", PLANTED)
def test_redaction_leaves_no_secret_of_many_kinds(text: str) -> None:
    found = Redactor(["s\u00e4cret/1"]).text(text)
    assert "SECRET" not in found.replace("AWS_SECRET_ACCESS_KEY", ""), found
    assert "cret/1" not in found.lower(), found
    assert "%2F1" not in found, found
    if text.startswith("{"):
        json.loads(found)


@pytest.mark.parametrize("prefix", ["0x", "secret_", "id-"])
def test_redaction_of_long_hexadecimal_numbers_needs_no_word_boundary(prefix: str) -> None:
    assert "abab" not in Redactor().text(prefix + "ab" * 32)


@pytest.mark.parametrize(
    "text",
    [
        "peer_secret_file=/etc/syncline/peer-secret token_ttl=30s",
        '{"join_token_file": "/etc/token", "term": 7}',
        "http_listen=http://127.0.0.1:8080 key=a@b id=0123456789abcdef",
    ],
)
def test_redaction_leaves_what_is_no_secret(text: str) -> None:
    assert Redactor().text(text) == text


def test_redaction_of_settings_knows_short_names() -> None:
    for name in ("pw", "db_pw", "pwd", "access_key", "SYNCLINE_TOKEN"):
        assert is_secret_name(name), name
    for name in ("peer_secret_file", "token_ttl", "powder"):
        assert not is_secret_name(name), name


@pytest.mark.parametrize("piece", ["token", "://", "-eyJ", "aaaa ", 'token="', "password: "])
def test_redaction_of_hostile_lines_takes_no_endless_time(piece: str) -> None:
    """A mebibyte of what the patterns begin with: their work grows with the text, and not with its square."""
    began_s = time.process_time()
    Redactor(["known"]).text(piece * ((1 << 18) // len(piece)))
    assert time.process_time() - began_s < 30
