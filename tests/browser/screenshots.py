"""Make the pictures of the console for the documentation: `python -m tests.browser.screenshots DIRECTORY`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from syncline.client import Client, PutOp
from syncline.testing.process_cluster import ProcessCluster
from tests.browser.beside import running_nodes
from tests.browser.chromium import MISSING, find_chromium
from tests.browser.console import ONE_LINK_CUT, PHONE, Browser, Page, open_browser
from tests.helpers.ports import free_block

WIDE: Final = (1240, 800)
SERVICE: Final = {
    "name": "billing",
    "replicas": 3,
    "limits": {"cpu": 2.5, "memory": "4GiB"},
    "enabled": True,
    "owners": ["ana", "li"],
}
PLOTTED_MS: Final = 30_000
ROUND_TRIPS: Final = "() => document.querySelectorAll('.ring .link text').length === 2"


def main(directory: Path) -> int:
    """Make all pictures."""
    program = find_chromium()
    if program is None:
        print(MISSING, file=sys.stderr)
        return 1
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, open_browser(program) as browser, running_nodes(data) as nodes:
        fill(nodes.client())
        make_all(browser, nodes, directory)
        learn(browser, Path(data) / "up", directory)
    return 0


def fill(kv: Client) -> None:
    """Keys, versions, leases and locks, as a small company has them."""
    for replicas in (1, 2, 3):
        kv.put("config/billing.json", json.dumps({**SERVICE, "replicas": replicas}))
    kv.put("config/feature-flags", "dark-mode=on\nnew-checkout=off\n")
    kv.batch([PutOp(b"jobs/2026-11/%05d" % number, b'{"to":"customer-%d"}' % number) for number in range(900)])
    for number in range(1, 6):
        kv.put(f"services/api/10.0.0.{number}:8080", '{"weight":1}', ttl=30.0 * number)
    kv.put("greeting", "hello")
    kv.put("release", "2026.11.3")
    for order, holder in enumerate(("worker-2", "worker-7", "worker-1")):
        kv.put(f"locks/nightly-report/00000000000000a{order}", holder, ttl=60.0)
    kv.put("elections/scheduler/00000000000000b1", "worker-3", ttl=60.0)


def make_all(browser: Browser, nodes: ProcessCluster, directory: Path) -> None:
    """One picture for each screen; the last ones are of a cluster without its leader."""
    own = (nodes.leader() + 1) % 3
    url = nodes.endpoints[own]
    page = browser.page(WIDE)
    page.open(url)
    page.sees("All is well")
    page.tab.wait_for_function(ROUND_TRIPS)
    write(page, directory / "console-cluster.png")
    page.open_keys(url)
    page.sees("900 keys")
    write(page, directory / "console-keys.png")
    page.open_key(url, b"config/billing.json")
    page.tab.wait_for_function("() => document.querySelectorAll('.history li').length === 3")
    write(page, directory / "console-key.png")
    conflict(page, nodes.client(), directory)
    page.open(url, "leases")
    page.sees("holds it")
    page.sees("worker-3")
    write(page, directory / "console-leases.png")
    dark = browser.page(WIDE, "dark")
    dark.open(url, "live")
    kv = nodes.client()
    for number in range(PLOTTED_MS // 250):
        for item in range(1 + (number * 7) % 5):
            kv.put(f"jobs/2026-11/{number * 9 + item:05}", f"state {number}")
        dark.tab.wait_for_timeout(200)
    write(dark, directory / "console-live.png")
    phone = browser.page(PHONE)
    phone.open(url)
    phone.sees("All is well")
    phone.tab.wait_for_function(ROUND_TRIPS)
    write(phone, directory / "console-phone.png")
    for other in {0, 1, 2} - {own}:
        nodes.kill(other)
    page.open(url)
    page.sees("No quorum: nothing can be written")
    write(page, directory / "console-no-quorum.png")
    for one in (page, dark, phone):
        one.close()


def learn(browser: Browser, data: Path, directory: Path) -> None:
    """The page of trials, after the leader was cut off while the page writes."""
    command = [*(sys.executable, "-m", "syncline", "up", "--json"), "--data-dir", str(data)]
    command += ["--port", str(free_block(103))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = next(found for line in process.stdout if (found := json.loads(line))["event"] == "ready")
        page = browser.page(WIDE)
        page.tab.goto(ready["console"])
        page.press("Write 100 keys a second")
        page.tab.wait_for_timeout(3000)
        own = page.tab.get_by_role("button", name=re.compile("Cut off the leader, "))
        if own.inner_text().endswith("n1"):  # the page's own node: another one shall be cut off
            page.tab.goto(f"{ready['console'].partition('/console/')[0]}/console/#/cluster")
            page.press("Transfer the leadership")
            page.confirm("Transfer")
            page.tab.get_by_role("link", name="Learn").click()
            page.press("Write 100 keys a second")
            page.tab.wait_for_timeout(3000)
        name = own.inner_text()[-2:]
        own.click()
        page.button("Connect").wait_for()
        page.tab.locator(f".ring .node.leader:not([aria-label^='{name}, '])").wait_for()
        page.tab.wait_for_function(ONE_LINK_CUT)
        page.tab.wait_for_timeout(3000)
        write(page, directory / "console-learn.png")
        page.close()
        process.send_signal(signal.SIGINT)
        process.wait()


def conflict(page: Page, kv: Client, directory: Path) -> None:
    """Two people edit one key."""
    page.open_key(page.tab.url.split("/console/")[0], b"config/feature-flags")
    page.press("Edit")
    page.tab.locator(".editor").fill("dark-mode=on\nnew-checkout=on\n")
    kv.put("config/feature-flags", "dark-mode=off\nnew-checkout=off\n")
    page.sees("The key has changed meanwhile")
    page.press("Save")
    page.sees("Changed by another client meanwhile")
    write(page, directory / "console-conflict.png")


def write(page: Page, path: Path) -> None:
    """Write one picture, when the page is at rest."""
    page.tab.wait_for_timeout(700)
    page.picture(str(path))
    print(f"{path} ({path.stat().st_size // 1024} KiB)")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
