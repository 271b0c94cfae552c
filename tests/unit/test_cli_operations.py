"""`txn`, `incr`, `compact`, `get --rev` and `list -l`: what they do on a real store, print, and end with."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.cli.txn_text import MAX_TEXT_BYTES, TxnText, TxnTextError, parse_txn
from syncline.client import (
    Compare,
    DeleteOp,
    DeletePrefixOp,
    DeleteRangeOp,
    GetOp,
    IncrementOp,
    ListOp,
    PutOp,
    TouchOp,
)
from tests.helpers.command import Ran, syncline
from tests.helpers.site_server import SiteServer, site_in_thread


@pytest.fixture
def site() -> Iterator[SiteServer]:
    with site_in_thread() as server:
        yield server


class Runner:
    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ran:
        return syncline(*arguments, stdin=stdin, endpoints=self.url)


@pytest.fixture
def run(site: SiteServer) -> Runner:
    return Runner(site.url)


def test_txn_whose_compares_hold_does_then(run: Runner) -> None:
    run("put", "draft", "text")
    text = b"""
        # publish the draft
        if mod(draft) == 1
        if version(published) == 0
        then put published "a text" prev
        then del draft prev
        then incr count 5
        then get published
        then list ""
        else get draft
    """
    ran = run("txn", stdin=text)
    assert (ran.status, ran.err) == (0, "")
    assert ran.text == (
        "succeeded, revision 2\n"
        "put published: revision 2\n"
        "del draft: 1 deleted\n"
        "  before:\n"
        "  draft\ttext\n"
        "incr count: 5\n"
        "get published: a text\n"
        "list : 2 of 2 keys\n"
        "  count\n"
        "  published\n"
    )


def test_txn_whose_compares_fail_does_else_and_ends_with_6(run: Runner) -> None:
    run("put", "k", "v")
    ran = run("txn", "--json", stdin=b"if value(k) != v\nthen del k\nelse get k\nelse get nothing\n")
    assert ran.status == 6
    assert ran.json() == {
        "succeeded": False,
        "revision": 1,
        "results": [
            {"op": "get", "found": True, "key": "k", "value": "v", "mod_revision": 1},
            {"op": "get", "found": False, "key": "nothing"},
        ],
    }
    assert ran.err == ""


def test_txn_comes_from_a_file(run: Runner, tmp_path: object) -> None:
    path = f"{tmp_path}/txn"
    with open(path, "wb") as file:
        file.write(b"then put k v\n")
    assert run("txn", "--file", path).text == "succeeded, revision 1\nput k: revision 1\n"
    assert "can't read" in run("txn", "--file", f"{path}-not").error()


def test_txn_that_can_not_be_read_names_the_line(run: Runner) -> None:
    failed = run("txn", stdin=b"then put a b\nthen put a\n")
    assert failed.status == 2
    assert "standard input: line 2: a word is missing: put KEY VALUE" in failed.error()
    assert run("get", "a").status == 3, "nothing was stored"


def test_wrong_usage_as_json_is_a_json_error(run: Runner) -> None:
    for arguments, words in (
        (("get", "k", "--rev", "x", "--json"), "--rev"),
        (("txn", "--json"), "line 1"),
        (("lease", "grant", "0s", "--json"), "TTL"),
        (("grab", "--json"), "No such command"),
    ):
        ran = run(*arguments, stdin=b"bogus\n")
        error = json.loads(ran.error())["error"]
        assert (ran.status, error["code"], words in error["message"]) == (2, "usage", True), ran.err
    assert run("get", "--rev", "x", "--", "--json").error().startswith("syncline: "), "--json is a key there"


def test_role_grant_without_a_range_names_the_options(run: Runner) -> None:
    for words in ("grant r read", "grant r read --key a --prefix b", "grant r read --end b", "revoke r"):
        ran = run("role", *words.split())
        assert (ran.status, "--prefix" in ran.error()) == (2, True), ran.err


def test_txn_that_the_server_refuses_ends_as_a_failure(run: Runner) -> None:
    failed = run("txn", stdin=b"then put a b\nthen del a\n")
    assert failed.status == 1
    assert "twice" in failed.error()


def test_incr_prints_the_sum(run: Runner) -> None:
    assert run("incr", "n").text == "1\n"
    assert run("incr", "n", "--by", "-3").text == "-2\n"
    assert run("incr", "m", "--initial", "40", "--by", "2", "--json").json() == {"key": "m", "value": 42}
    run("put", "t", "text")
    failed = run("incr", "t", "--json")
    assert (failed.status, json.loads(failed.err)["error"]["code"]) == (1, "not_a_number")


def test_get_at_a_revision_is_as_it_was(run: Runner) -> None:
    run("put", "k", "old")
    run("put", "k", "new")
    run("del", "k")
    assert run("get", "k", "--rev", "1").text == "old"
    assert run("get", "k", "--rev", "2", "--json").json()["value"] == "new"
    assert run("get", "k", "--rev", "3").status == 3
    assert run("get", "k", "--rev", "0").status == 2
    late = run("get", "k", "--rev", "9", "--timeout", "100ms")
    assert late.status == 4


def test_compact_makes_older_revisions_unreadable(run: Runner) -> None:
    for value in ("1", "2", "3"):
        run("put", "k", value)
    assert run("compact", "2").text == "oldest revision 2\n"
    assert run("compact", "3", "--json").json() == {"oldest": 3}
    refused = run("get", "k", "--rev", "1", "--json")
    error = json.loads(refused.err)["error"]
    assert (refused.status, error["code"], error["details"]) == (1, "compacted", {"oldest": 3})
    assert run("compact", "9").status == 1
    assert run("compact", "0").status == 2


def test_list_long_prints_what_is_known_of_each_key(run: Runner) -> None:
    run("put", "a", "1")
    run("put", "a", "22")
    run("put", "b\t", "")
    run("txn", stdin=b"then touch a 60s\n")
    lines = run("list", "-l", "--values").text.splitlines()
    assert [line.split() for line in lines] == [
        ["4", "1", "3", "2", f"{1:016x}", "a", "22"],
        ["3", "3", "1", "0", "-", "b\\t"],
    ]
    in_json = run("list", "--json").json()
    assert (in_json["count"], in_json["revision"]) == (2, 4)
    in_json = run("list", "--json", "--rev", "1").json()
    assert (in_json["count"], in_json["revision"]) == (1, 1)
    assert run("list", "--json", "--rev", "1", "--count").json() == {"count": 1, "revision": 1}
    assert run("list", "--rev", "1", "-l").text.split() == ["1", "1", "1", "1", "-", "a"]
    assert run("list", "--rev", "1", "--count").text == "1\n"


def test_list_of_more_than_a_page_prints_each_key(run: Runner, site: SiteServer) -> None:
    for number in range(1500):
        site.backend.store.put(b"k%04d" % number, b"", 0, number + 1)
    assert run("list").text.splitlines() == [f"k{number:04}" for number in range(1500)]


# --- the text form

NO_LEASE = "0" * 16
LEASE = "00000000000000ff"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"if mod(k) == 3", Compare(b"k", number=3)),
        (b"if mod(k)=3", Compare(b"k", number=3)),
        (b"if  create ( k )  !=  0", Compare(b"k", "create_revision", "!=", 0)),
        (b'if version("a b") > 1', Compare(b"a b", "version", ">", 1)),
        (b"if version(prefix jobs/) < 9", Compare(b"jobs/", "version", "<", 9, prefix=True)),
        (b"if mod(range a b) == 1", Compare(b"a", number=1, end=b"b")),
        (b"if mod(prefix) == 1", Compare(b"prefix", number=1)),
        (b'if value(k) == "x y"', Compare(b"k", value=b"x y")),
        (b'if value(k) == ""', Compare(b"k", value=b"")),
        (b"if value(k) == 3", Compare(b"k", value=b"3")),
        (b'if value("(") == ")"', Compare(b"(", value=b")")),
        (b"if lease(k) == none", Compare(b"k", lease=NO_LEASE)),
        (b"if lease(k) != 00000000000000ff", Compare(b"k", op="!=", lease=LEASE)),
        (b"then put k v", PutOp(b"k", b"v")),
        (b'then put k ""', PutOp(b"k", b"")),
        (b'then put "\\"\\\\\\n\\r\\t\\xff" (=)', PutOp(b'"\\\n\r\t\xff', b"(=)")),
        (b"then put k v lease 00000000000000ff prev", PutOp(b"k", b"v", LEASE, previous=True)),
        (b"then put k v ttl 5m", PutOp(b"k", b"v", ttl=300.0)),
        (b'then put k "prev"', PutOp(b"k", b"prev")),
        (b"then put prev ttl", PutOp(b"prev", b"ttl")),
        (b"then del k prev", DeleteOp(b"k", previous=True)),
        (b"then del prefix", DeleteOp(b"prefix")),
        (b"then del prefix p prev", DeletePrefixOp(b"p", previous=True)),
        (b'then del "prefix" prev', DeleteOp(b"prefix", previous=True)),
        (b"then del range a b", DeleteRangeOp(b"a", b"b")),
        (b"then get k", GetOp(b"k")),
        (b"then get k rev 7", GetOp(b"k", 7)),
        (b"then list p limit 3 values rev 7", ListOp(b"p", limit=3, values=True, revision=7)),
        (b"then list range a b", ListOp(start=b"a", end=b"b")),
        (b"then incr n", IncrementOp(b"n")),
        (b"then incr n -5 prev", IncrementOp(b"n", -5, previous=True)),
        (b"then incr n prev", IncrementOp(b"n", previous=True)),
        (b"then touch k 90s", TouchOp(b"k", 90.0)),
    ],
)  # fmt: skip
def test_txn_text_line_is_read(line: bytes, expected: object) -> None:
    found = parse_txn(b"\n# a comment\n\t" + line + b"  \r\n")
    assert [*found.compare, *found.then] == [expected]


def test_txn_text_lines_belong_to_their_branch() -> None:
    found = parse_txn(b"else get a\nthen get b\nif mod(c) == 1\nelse get d")
    assert found == TxnText([Compare(b"c", number=1)], [GetOp(b"b")], [GetOp(b"a"), GetOp(b"d")])
    assert parse_txn(b"") == TxnText()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"put k v", "it begins with 'put'; expected if, then or else"),
        (b"and mod(k) == 1", "expected if, then or else"),
        (b"if", "expected TARGET(KEY) OPERATOR OPERAND"),
        (b"if mod", "expected TARGET(KEY)"),
        (b"if mod k == 1", "expected TARGET(KEY)"),
        (b"if mod() == 1", "expected TARGET(KEY)"),
        (b'if mod("") == 1', "the key is empty"),
        (b"if mod(a b) == 1", "expected one key in the brackets"),
        (b'if mod("prefix" b) == 1', "expected one key in the brackets"),
        (b"if mod(k == 1", "expected TARGET(KEY)"),
        (b"if size(k) == 1", "the target 'size' is none of mod, create"),
        (b"if mod(k) >= 1", "expected what mod is compared with"),
        (b"if mod(k) ~ 1", "the operator is none of"),
        (b"if mod(k) ==", "expected what mod is compared with"),
        (b"if mod(k) == one", "the operand is 'one'; expected a whole number"),
        (b"if mod(k) == -1", "the operand is -1; expected 0 or more"),
        (b"if mod(k) == 99999999999999999999", "at most 64 bits"),
        (b'if mod(k) == "1"', "expected a whole number"),
        (b"if mod(k) == 1 and", "there is more behind the compare"),
        (b"if value(k) == a b", "there is more behind the compare"),
        (b"if lease(k) == 7", "the lease is '7'"),
        (b"then", "expected an operation"),
        (b"then move k", "'move' is no operation"),
        (b'then "put" k v', "'put' is no operation"),
        (b"then put", "a word is missing: put KEY VALUE"),
        (b"then put k", "a word is missing: put KEY VALUE"),
        (b"then put k v w", "'w' is not expected here"),
        (b"then put k v ttl", "a word is missing: put KEY VALUE ttl TIME"),
        (b"then put k v ttl never", "'never' is not a time"),
        (b"then put k v lease 1", "the lease is '1'"),
        (b'then put "" v', "the key is empty"),
        (b'then put k "v', "a quoted word has no end"),
        (b'then put k v"w"', "a quote stands inside the word"),
        (b'then put k "v"w', "a quote stands inside the word"),
        (b'then put k "\\q"', "is no escape"),
        (b'then put k "\\x1"', "is no escape"),
        (b"then del", "a word is missing"),
        (b"then del range a", "a word is missing"),
        (b"then get k rev", "a word is missing: rev N"),
        (b"then get k rev 0", "rev is 0"),
        (b"then get k rev -1", "rev is -1"),
        (b"then list p limit x", "limit is 'x'"),
        (b"then incr n 1.5", "BY is '1.5'"),
        (b"then touch k", "a word is missing: touch KEY TIME"),
        (b"then touch k 0", "'0' is not a time above 0"),
    ],
)
def test_txn_text_line_that_can_not_be_read_is_named(line: bytes, words: str) -> None:
    with pytest.raises(TxnTextError, match=r"^line 2: ") as refused:
        parse_txn(b"then get a\n" + line)
    assert words in str(refused.value)


def test_txn_text_above_its_limit_is_refused() -> None:
    with pytest.raises(TxnTextError, match="the limit is"):
        parse_txn(b"#" * (MAX_TEXT_BYTES + 1))


BYTES = st.binary(max_size=6)
KEYS = st.binary(min_size=1, max_size=6)
NUMBERS = st.integers(0, 2**63 - 1)
OPERATORS = st.sampled_from(["==", "!=", "<", ">"])
LEASES = st.integers(1, 2**63 - 1).map(lambda number: f"{number:016x}")
FLAGS = st.booleans()
SECONDS = st.integers(1, 10**6).map(float)
COMPARES = st.one_of(
    st.builds(Compare, KEYS, st.sampled_from(["mod_revision", "create_revision", "version"]), OPERATORS, NUMBERS),
    st.builds(Compare, BYTES, st.just("version"), OPERATORS, NUMBERS, prefix=st.just(True)),
    st.builds(Compare, KEYS, op=OPERATORS, value=BYTES, end=st.one_of(st.none(), BYTES)),
    st.builds(Compare, KEYS, op=OPERATORS, lease=LEASES),
)
OPERATIONS = st.one_of(
    st.builds(PutOp, KEYS, BYTES, st.one_of(st.none(), LEASES), previous=FLAGS),
    st.builds(PutOp, KEYS, BYTES, ttl=SECONDS, previous=FLAGS),
    st.builds(DeleteOp, KEYS, FLAGS),
    st.builds(DeletePrefixOp, BYTES, previous=FLAGS),
    st.builds(DeleteRangeOp, BYTES, BYTES, previous=FLAGS),
    st.builds(GetOp, KEYS, NUMBERS),
    st.builds(ListOp, BYTES, limit=NUMBERS, values=FLAGS, revision=NUMBERS),
    st.builds(ListOp, st.none(), BYTES, BYTES, values=FLAGS),
    st.builds(IncrementOp, KEYS, st.integers(-(2**63), 2**63 - 1), previous=FLAGS),
    st.builds(TouchOp, KEYS, SECONDS),
)


BRANCHES = st.lists(OPERATIONS, max_size=3)


@given(st.builds(TxnText, st.lists(COMPARES, max_size=3), BRANCHES, BRANCHES))
def test_txn_text_that_was_written_is_read_as_it_was_meant(txn: TxnText) -> None:
    assert parse_txn(written(txn)) == txn


@given(st.one_of(st.binary(max_size=60), st.text('ifthenls mod(k)=="v" \\\n0-', max_size=60).map(str.encode)))
def test_txn_text_of_any_bytes_is_read_or_refused(data: bytes) -> None:
    try:
        found = parse_txn(data)
    except TxnTextError as refused:
        found, message = TxnText(), str(refused)
    else:
        message = "line"
    assert message.startswith("line")
    assert parse_txn(written(found)) == found


def written(txn: TxnText) -> bytes:
    """The text of a transaction, every word of its data in quotes."""
    lines = ["if " + _compare(one) for one in txn.compare]
    lines += ["then " + _operation(one) for one in txn.then]
    lines += ["else " + _operation(one) for one in txn.else_]
    return "\n".join(lines).encode()


def quoted(data: bytes) -> str:
    escapes = {ord('"'): '\\"', ord("\\"): "\\\\", 10: "\\n", 13: "\\r", 9: "\\t"}
    return '"' + "".join(escapes.get(byte, chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}") for byte in data) + '"'


def _compare(one: Compare) -> str:
    keys = quoted(one.key)
    if one.prefix:
        keys = f"prefix {keys}"
    elif one.end is not None:
        keys = f"range {keys} {quoted(one.end)}"
    if one.value is not None:
        return f"value({keys}) {one.op} {quoted(one.value)}"
    if one.lease is not None:
        return f"lease({keys}) {one.op} {'none' if one.lease == NO_LEASE else one.lease}"
    name = {"mod_revision": "mod", "create_revision": "create"}.get(one.target, one.target)
    return f"{name}({keys}) {one.op} {one.number}"


def _operation(one: object) -> str:
    prev = " prev" if getattr(one, "previous", False) else ""
    revision = f" rev {one.revision}" if isinstance(one, GetOp | ListOp) and one.revision else ""
    match one:
        case PutOp():
            lease = f" lease {one.lease}" if one.lease else f" ttl {one.ttl!r}s" if one.ttl else ""
            return f"put {quoted(one.key)} {quoted(one.value)}{lease}{prev}"
        case DeleteOp():
            return f"del {quoted(one.key)}{prev}"
        case DeletePrefixOp():
            return f"del prefix {quoted(one.prefix)}{prev}"
        case DeleteRangeOp():
            return f"del range {quoted(one.start)} {quoted(one.end or b'')}{prev}"
        case GetOp():
            return f"get {quoted(one.key)}{revision}"
        case ListOp():
            bounds = f"range {quoted(one.start or b'')} {quoted(one.end or b'')}"
            keys = bounds if one.prefix is None else quoted(one.prefix)
            limit = f" limit {one.limit}" if one.limit else ""
            return f"list {keys}{limit}{' values' if one.values else ''}{revision}"
        case IncrementOp():
            return f"incr {quoted(one.key)} {one.by}{prev}"
        case TouchOp():
            return f"touch {quoted(one.key)} {one.ttl!r}s"
        case _:
            raise AssertionError(one)
