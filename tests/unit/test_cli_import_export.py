"""`import` and `export`: whatever tree goes in comes out, and nothing is touched outside it."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncline.cli.import_export import copy as tree_copy
from syncline.cli.import_export.paths import FoundFile, KeyPaths, Skipped, UnsafeKey, walk_files
from tests.helpers.command import syncline
from tests.helpers.http_server import (
    DROP,
    HttpDouble,
    HttpRequest,
    KeyDouble,
    Reply,
    StoredValue,
    error_reply,
    in_thread,
    refused_url,
)

NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: b"/" not in name and b"\0" not in name).filter(
    lambda name: name not in {b".", b".."}
)  # fmt: skip
TREES = st.recursive(
    st.binary(max_size=64), lambda below: st.dictionaries(NAMES, below, min_size=1, max_size=4), max_leaves=12
).filter(lambda tree: isinstance(tree, dict))

Tree = dict[bytes, "Tree | bytes"]


@pytest.fixture
def keys() -> KeyDouble:
    return KeyDouble(page_limit=7)


@pytest.fixture
def server(keys: KeyDouble) -> Iterator[HttpDouble]:
    with in_thread(keys) as (double,):
        yield double


def plant(root: bytes, tree: Tree) -> None:
    os.makedirs(root, exist_ok=True)
    for name, below in tree.items():
        path = os.path.join(root, name)
        if isinstance(below, dict):
            plant(path, below)
        else:
            with open(path, "wb") as file:
                file.write(below)


def harvest(root: bytes) -> dict[bytes, bytes]:
    return {found.relative: Path(os.fsdecode(found.path)).read_bytes() for found in files_below(root)}


def files_below(root: bytes) -> list[FoundFile]:
    return [found for found in walk_files(root) if isinstance(found, FoundFile)]


def flat(tree: Tree, above: bytes = b"") -> dict[bytes, bytes]:
    found = {}
    for name, below in tree.items():
        found.update(flat(below, above + name + b"/") if isinstance(below, dict) else {above + name: below})
    return found


@given(TREES, st.sampled_from(["", "site/", "ä b/"]))
@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
def test_any_tree_comes_back_as_it_was(server: HttpDouble, keys: KeyDouble, tree: Tree, prefix: str) -> None:
    keys.keys.clear()
    with tempfile.TemporaryDirectory() as directory:
        source, target = os.fsencode(directory) + b"/in", os.fsencode(directory) + b"/out"
        plant(source, tree)
        expected = flat(tree)
        ran = syncline("import", os.fsdecode(source), "--prefix", prefix, "--json", endpoints=server.url)
        assert (ran.status, ran.json()["imported"]) == (0, len(expected))
        assert {key: stored.value for key, stored in keys.keys.items()} == {
            prefix.encode() + path: data for path, data in expected.items()
        }
        ran = syncline("export", os.fsdecode(target), "--prefix", prefix, "--json", endpoints=server.url)
        assert (ran.status, ran.json()["exported"]) == (0, len(expected))
        assert harvest(target) == expected


def test_what_is_no_regular_file_is_skipped_and_reported(server: HttpDouble, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        ran = syncline("import", str(tmp_path), endpoints=server.url)
    assert ran.status == 0
    assert ran.text == "imported 1 file, 1 byte\n"
    assert ran.err.splitlines() == [
        "skipped: link: a symbolic link, not a regular file",
        "skipped: loop: a symbolic link, not a regular file",
        "skipped: pipe: a pipe, not a regular file",
        "skipped: socket: a socket, not a regular file",
    ]


def test_a_file_that_can_not_be_stored_is_reported_and_the_others_go_on(
    server: HttpDouble, keys: KeyDouble, tmp_path: Path
) -> None:
    keys.max_value_bytes = 10
    for name, size in (("a", 3), ("big", 11), ("c", 10)):
        (tmp_path / name).write_bytes(b"x" * size)
    ran = syncline("import", str(tmp_path), endpoints=server.url)
    assert ran.status == 1
    assert sorted(keys.keys) == [b"a", b"c"]
    assert ran.err.splitlines() == [
        "failed: big: the value is above 10 bytes",
        "syncline: 1 file was not imported",
    ]
    listed = json.loads(syncline("import", str(tmp_path), "--json", endpoints=server.url).out)
    assert listed["failed"] == [{"name": "big", "reason": "the value is above 10 bytes"}]


def test_a_file_beyond_any_limit_is_not_even_sent(
    server: HttpDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_copy, "MAX_FILE_BYTES", 5)
    (tmp_path / "big").write_bytes(b"123456")
    ran = syncline("import", str(tmp_path), endpoints=server.url)
    assert (ran.status, server.requests) == (1, [])
    assert "6 bytes are more than a value can have" in ran.err


def test_writes_in_doubt_are_repeated(server: HttpDouble, keys: KeyDouble, tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"f{number}").write_bytes(b"%d" % number)
    doubtful = iter([DROP, error_reply(503, "closed", "unknown"), error_reply(503, "no_leader")] * 2)

    def troubled(request: HttpRequest) -> Reply:
        return next(doubtful, None) or keys._batch(request)

    keys.answers["/batch"] = troubled
    ran = syncline("import", str(tmp_path), "--timeout", "20s", endpoints=server.url)
    assert (ran.status, ran.err) == (0, "")
    assert {key: stored.value for key, stored in keys.keys.items()} == {b"f%d" % n: b"%d" % n for n in range(40)}


def test_import_small_files_share_requests_and_large_ones_do_not(server: HttpDouble, tmp_path: Path) -> None:
    sizes = {**{f"s{number:02}": 10 for number in range(70)}, "large": tree_copy.ALONE_BYTES + 1}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    ran = syncline("import", str(tmp_path), endpoints=server.url)
    assert ran.text == f"imported 71 files, {sum(sizes.values())} bytes\n"
    sent = sorted(request.path for request in server.requests)
    assert sent == ["/batch", "/batch", "/batch", "/key/large"]


def test_import_requests_end_at_their_size() -> None:
    """Files may have grown since they were counted; one that is larger than a request is still sent, alone."""
    sizes = [1, 2 * tree_copy.REQUEST_BYTES, 2 * tree_copy.REQUEST_BYTES, 3 * tree_copy.REQUEST_BYTES, 5, 6]
    contents = [(FoundFile(b"f", b"f", 0), b"x" * size) for size in sizes]
    parts = [[len(data) for _, data in part] for part in tree_copy._requests(contents)]
    assert parts == [[sizes[0]], [sizes[1]], [sizes[2]], [sizes[3]], [5, 6]]


def test_a_cluster_that_is_gone_ends_an_import_with_what_was_done(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    ran = syncline("import", str(tmp_path), "--timeout", "200ms", endpoints=refused_url())
    assert ran.status == 4
    assert "connection refused; 0 files were done before it" in ran.error()


def test_directories_that_can_not_be_used_are_told(server: HttpDouble, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert "does not exist" in syncline("import", str(tmp_path / "none"), endpoints=server.url).error()
    assert "is a file" in syncline("import", str(tmp_path / "file"), endpoints=server.url).error()
    assert "is a file" in syncline("export", str(tmp_path / "file"), endpoints=server.url).error()
    assert "Not a directory" in syncline("export", str(tmp_path / "file" / "x"), endpoints=server.url).error()


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (b"/etc/passwd", "absolute path"),
        (b"../x", "'..' would lead elsewhere"),
        (b"a/../../x", "'..' would lead elsewhere"),
        (b"./x", "'.' would lead elsewhere"),
        (b"a//b", "empty part"),
        (b"a/", "empty part"),
        (b"a\0b", "zero byte"),
        (b"a/" + b"x" * 256, "longer than 255"),
    ],
)
def test_a_key_that_can_not_be_a_file_is_reported_and_the_others_go_on(
    server: HttpDouble, keys: KeyDouble, tmp_path: Path, key: bytes, reason: str
) -> None:
    for name in (b"good", key, b"zz"):
        keys.keys[name] = StoredValue(b"v", 1, 1, 1)
    target = tmp_path / "below" / "target"
    ran = syncline("export", str(target), endpoints=server.url)
    assert ran.status == 1
    assert reason in ran.err
    assert harvest(os.fsencode(tmp_path)) == {b"below/target/good": b"v", b"below/target/zz": b"v"}


def test_a_key_that_is_a_directory_of_others_wins_over_them(
    server: HttpDouble, keys: KeyDouble, tmp_path: Path
) -> None:
    for name in (b"a", b"a-b", b"a/b", b"a/c/d", b"a0", b"b/a", b"b/a/x"):
        keys.keys[name] = StoredValue(name, 1, 1, 1)
    ran = syncline("export", str(tmp_path), endpoints=server.url)
    assert ran.status == 1
    assert harvest(os.fsencode(tmp_path)) == {name: name for name in (b"a", b"a-b", b"a0", b"b/a")}
    assert ran.err.count("is a key itself, so it can't be a directory, too") == 3


def test_export_of_a_nodes_own_state_needs_no_leader(server: HttpDouble, keys: KeyDouble, tmp_path: Path) -> None:
    """It is what can be saved where a quorum is lost."""
    for name in (b"a", b"b/c"):
        keys.keys[name] = StoredValue(name, 1, 1, 1)
    assert syncline("export", str(tmp_path), "--consistency", "stale", endpoints=server.url).status == 0
    assert harvest(os.fsencode(tmp_path)) == {b"a": b"a", b"b/c": b"b/c"}
    assert len(server.requests) >= 3
    for request in server.requests:
        assert request.parameters.get("consistency") == "stale", request


def test_links_in_the_target_are_not_followed(server: HttpDouble, keys: KeyDouble, tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (outside / "precious").write_bytes(b"precious")
    (target / "link").symlink_to(outside)
    (target / "file").symlink_to(outside / "precious")
    (target / "taken").write_bytes(b"")
    for name in (b"link/x", b"file", b"taken/x"):
        keys.keys[name] = StoredValue(b"new", 1, 1, 1)
    ran = syncline("export", str(target), endpoints=server.url)
    assert ran.status == 1
    assert "is a symbolic link, which might lead elsewhere" in ran.err
    assert "is there already and is no directory" in ran.err
    assert sorted(os.listdir(outside)) == ["precious"]
    assert (outside / "precious").read_bytes() == b"precious"
    assert (target / "file").read_bytes() == b"new", "a link in the file's own place is replaced, not written through"


def test_files_are_replaced_and_strangers_stay(server: HttpDouble, keys: KeyDouble, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "stranger").write_bytes(b"stays")
    keys.keys[b"old"] = StoredValue(b"new", 1, 1, 1)
    assert syncline("export", str(tmp_path), endpoints=server.url).status == 0
    assert harvest(os.fsencode(tmp_path)) == {b"old": b"new", b"stranger": b"stays"}


def test_what_was_exported_is_on_the_disk_before_it_has_its_name(
    server: HttpDouble, keys: KeyDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (b"a", b"deep/er/b", b"deep/c"):
        keys.keys[key] = StoredValue(b"value", 1, 1, 1)
    real_sync, real_replace = os.fsync, os.replace
    synced: set[bytes] = set()
    renamed: dict[bytes, bytes] = {}

    def sync(descriptor: int) -> None:
        real_sync(descriptor)
        synced.add(os.fsencode(os.readlink(f"/proc/self/fd/{descriptor}")))

    def replace(source: bytes, target: bytes) -> None:
        assert source in synced, "its content is durable before it gets its name"
        real_replace(source, target)
        renamed[target] = source

    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr("os.replace", replace)
    root = tmp_path / "copy"
    assert syncline("export", str(root), endpoints=server.url).status == 0
    assert set(renamed) == {os.fsencode(root / name) for name in ("a", "deep/er/b", "deep/c")}
    directories = {os.fsencode(path) for path in (root, root / "deep", root / "deep" / "er")}
    assert directories <= synced, "and so is the name, when the command ends"


def test_a_failed_write_leaves_the_old_file_and_no_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.fsencode(tmp_path / "file")
    tree_copy._write(path, b"old")

    def broken(source: bytes, target: bytes) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="Input/output"):
        tree_copy._write(path, b"new")
    assert harvest(os.fsencode(tmp_path)) == {b"file": b"old"}


def test_a_key_deleted_while_an_export_runs_is_only_skipped(
    server: HttpDouble, keys: KeyDouble, tmp_path: Path
) -> None:
    for name in (b"a", b"b"):
        keys.keys[name] = StoredValue(b"v", 1, 1, 1)
    keys.answers["/key/a"] = error_reply(404, "not_found")
    ran = syncline("export", str(tmp_path), endpoints=server.url)
    assert (ran.status, ran.err) == (0, "skipped: a: was deleted meanwhile\n")
    assert harvest(os.fsencode(tmp_path)) == {b"b": b"v"}


@given(st.sets(st.binary(min_size=1, max_size=5), max_size=25))
def test_no_two_keys_get_paths_that_can_not_both_be(keys: set[bytes]) -> None:
    paths = KeyPaths(b"/no/such/tree", b"")
    given_paths = []
    for key in sorted(keys):
        try:
            given_paths.append(paths.path(key))
        except UnsafeKey:
            continue
    for path in given_paths:
        assert os.path.normpath(path) == path
        assert path.startswith(b"/no/such/tree/")
        assert not any(other.startswith(path + b"/") for other in given_paths)


def test_what_can_not_be_read_below_a_directory_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path: bytes) -> object:
        if path.endswith(b"closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert list(walk_files(os.fsencode(tmp_path))) == [Skipped(b"closed/", "can't be read: Permission denied")]
