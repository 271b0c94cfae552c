"""Measure the console with many keys: `python -m tests.browser.measure --keys 1000000`.

It starts a node, fills it, and opens the screen of keys in Chromium: how long until the first rows are there, and how
long the longest task of the page's thread is while the list is scrolled and searched. It prints, and never fails.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from typing import Final

from syncline.client import AsyncClient, PutOp
from tests.browser.beside import beside, running_nodes
from tests.browser.chromium import MISSING, find_chromium
from tests.browser.console import Browser, Page, open_browser

BATCH: Final = 1000
FOLDERS: Final = 50
SCROLLS: Final = 20
WATCH_TASKS: Final = """
window.tasks = [];
new PerformanceObserver(list => {
  for (const one of list.getEntries()) window.tasks.push(one.duration);
}).observe({type: 'longtask', buffered: true});
"""


async def fill(url: str, count: int) -> None:
    """Two thirds of the keys in folders, one third without a slash."""
    async with AsyncClient(url, timeout=60.0) as kv:
        gate = asyncio.Semaphore(4)

        async def put(begin: int) -> None:
            async with gate:
                ops = [PutOp(key_of(at), b"value") for at in range(begin, min(count, begin + BATCH))]
                await kv.batch(ops)

        await asyncio.gather(*(put(begin) for begin in range(0, count, BATCH)))


def key_of(number: int) -> bytes:
    return b"folder-%02d/%07d" % (number % FOLDERS, number) if number % 3 else b"root-%07d" % number


def measure(browser: Browser, url: str) -> None:
    """Print the figures of each use."""
    warm = browser.page()  # Chromium's own start is not the console's
    warm.open(url)
    warm.sees("All is well")
    warm.close()
    for view in ("tree", "flat"):
        page = browser.page()
        page.tab.add_init_script(WATCH_TASKS)
        page.open_keys(url, v=view)
        page.tab.locator(".line").first.wait_for()
        print(f"{view}: first rows after {page.tab.evaluate('() => performance.now()'):.0f} ms, with the page's load")
        tell(page, f"{view}: first page")
        page.tab.locator(".virtual").focus()
        for _ in range(SCROLLS):
            page.tab.keyboard.press("End")
            page.tab.wait_for_timeout(100)
        print(f"{view}: rows after {SCROLLS} times End: {page.tab.locator('.line').last.get_attribute('aria-setsize')}")
        tell(page, f"{view}: scrolled")
        page.close()
    page = browser.page()
    page.tab.add_init_script(WATCH_TASKS)
    page.open_keys(url)
    page.tab.locator(".line").first.wait_for()
    begin = time.monotonic()
    page.tab.locator("#filter").fill("99999")
    page.tab.get_by_text(re.compile("keys were looked at|found in 100,000 of")).first.wait_for()
    print(f"search: 100,000 keys looked at in {time.monotonic() - begin:.1f} s")
    tell(page, "search")
    page.close()


def tell(page: Page, what: str) -> None:
    """The longest task of the page's thread so far; tasks below 50 ms are not told by the browser."""
    tasks = page.tab.evaluate("() => window.tasks")
    print(f"{what}: longest task {max(tasks, default=0):.0f} ms, {len(tasks)} above 50 ms")


def main() -> int:
    """Start a node, fill it, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    count = parser.parse_args().keys
    program = find_chromium()
    if program is None:
        print(MISSING, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as data, open_browser(program) as browser, running_nodes(data, nodes=1) as node:
        url = node.endpoints[0]
        begin = time.monotonic()
        beside(lambda: asyncio.run(fill(url, count)))
        print(f"{count} keys written in {time.monotonic() - begin:.0f} s; load {os.getloadavg()[0]:.1f}")
        measure(browser, url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
