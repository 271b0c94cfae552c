"""docs/http.md is true: its routes, parameters, fields, codes and limits are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from syncline import errors
from syncline.client.schemas import MemberInfo, Members, NodeStatus, UpgradeResult
from syncline.kv.serving import pages
from syncline.kv.serving.reads import DEFAULT_TIMEOUT_S
from syncline.server.api import cluster, health, reads
from syncline.server.api import errors as problems
from syncline.server.api import list as listing
from syncline.server.config import ServerConfig
from syncline.server.http.limits import KIB, MIB, HttpLimits
from tests.helpers.kv_node import KvWire, error_in
from tests.helpers.route_paths import path_of

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "http.md").read_text()
LIMITS = TEXT.partition("## Limits of a connection")[2].partition("\n## ")[0]


def line_with(words: str, text: str = TEXT) -> str:
    found = [line for line in text.splitlines() if words in line]
    assert found, words
    return "\n".join(found)


def test_document_names_every_route() -> None:
    routes = KvWire().site.router.routes
    for pattern in routes:
        path = pattern.replace("{key...}", "{key}").replace("livez/{check}", "readyz/NAME").replace("{check}", "NAME")
        last = path.removeprefix("/raft")
        assert f"{path}`" in TEXT or f"`{last}`" in TEXT or f"{path}?key={{key}}" in TEXT, pattern


async def test_document_names_every_parameter() -> None:
    """As the server tells them itself."""
    wire = KvWire()
    for pattern, methods in wire.site.router.routes.items():
        path = path_of(pattern, b"node" if "{check}" in pattern else b"a")
        path += "&" if "?" in path else "?"
        for method in set(methods) - {"HEAD"}:
            message = error_in(await wire.ask(method, f"{path}bogus=1"))["message"]
            accepted = message.partition("accepted here: ")[2].split(", ")
            for name in set(accepted) - {"none"}:
                assert re.search(rf"[`?]{name}[`=&]|`\?{name}", TEXT), (pattern, name)


@pytest.mark.parametrize("structure", [NodeStatus, MemberInfo, Members, UpgradeResult])
def test_document_names_every_field(structure: type[msgspec.Struct]) -> None:
    for field in structure.__struct_fields__:
        assert re.search(rf'[`"]{field}[`"]', TEXT), field


def test_document_names_every_code() -> None:
    table = TEXT.partition("| status | code | when |")[2].partition("\n\n")[0]
    codes = {problems.CODE_BY_CLASS[kind] for kind in problems.CODE_BY_CLASS} | set(problems.STATUS_BY_CODE)
    codes |= {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    inside = {"operation_failed", "rejected", "nothing_to_snapshot", "unreachable", "request_failed"}
    inside |= {"watch_ended"}  # the end of a watch has a code of its own
    inside |= {"lease_lost", "lock_lost", "leadership_lost"}  # of client and library: no server answers with them
    later = {"lease_not_found"}
    refused_by_check = {"bad_command"}
    for code in codes - inside - later - refused_by_check:
        assert f"`{code}`" in table, code


def test_document_has_the_limits_of_a_connection() -> None:
    limits = ServerConfig(name="a", data_dir="d").http_limits()
    assert limits.max_url_bytes == 3 * KIB + 5 * KIB
    assert "`max_key_bytes` + 5 KiB" in line_with("URL", LIMITS)
    assert f"{limits.max_header_bytes // KIB} KiB, {limits.max_headers} fields" in line_with("| header |", LIMITS)
    assert f"{limits.max_body_bytes // MIB} MiB" in line_with("| body |", LIMITS)
    assert f"| {limits.max_in_flight} that read" in line_with("in work per connection", LIMITS)
    assert f"{limits.max_held_bytes // MIB} MiB" in line_with("in memory per connection", LIMITS)
    together = line_with("all connections together", LIMITS)
    assert f"{limits.max_total_held_bytes // MIB} MiB" in together
    assert f"{limits.vital_bytes // MIB} MiB of their own" in together
    assert f"({limits.max_connections:,})" in line_with("| connections |", LIMITS)


def test_document_has_the_times_of_a_connection() -> None:
    limits = HttpLimits()
    assert f"| {limits.header_timeout_s:g} s |" in line_with("time for a header", LIMITS)
    slow = line_with("a slow body", LIMITS)
    part_kib = limits.least_bytes_per_s * limits.body_timeout_s / KIB
    assert f"less than {part_kib:g} KiB in {limits.body_timeout_s:g} s (1 KiB/s)" in slow
    assert f"| {limits.idle_timeout_s:g} s |" in line_with("idle between requests", LIMITS)
    unread = line_with("a client that does not read", LIMITS)
    part_kib = limits.least_bytes_per_s * limits.write_timeout_s / KIB
    assert f"{limits.write_timeout_s:g} s, or takes less than {part_kib:g} KiB" in unread


def test_document_has_the_deadlines_and_sizes_of_the_routes() -> None:
    deadlines = line_with("**`timeout=`**")
    assert f"{DEFAULT_TIMEOUT_S:g} s by default and {reads.MAX_TIMEOUT_S:g} s at most for keys" in deadlines
    assert f"{cluster.DEFAULT_TIMEOUT_S:g} s and {cluster.MAX_TIMEOUT_S:g} s for `/raft/…`" in deadlines
    assert f"`limit` (1 to {pages.MAX_LIMIT:,}; {listing.DEFAULT_LIMIT:,})" in TEXT
    assert f"A page ends early at {pages.MAX_PAGE_BYTES // MIB} MiB" in TEXT
    for path, checks in (("/livez", health.LIVE), ("/readyz", health.READY)):
        assert re.search(rf"`GET {path}` \((checks )?{', '.join(f'`{check}`' for check in checks)}\)", TEXT), path
