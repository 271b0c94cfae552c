"""A page of the console, as a test uses it: screens by name, keys by their bytes, and what went wrong in the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import ConsoleMessage, Dialog, Locator, sync_playwright
from playwright.sync_api import Page as Tab

__all__ = ["DESKTOP", "ONE_LINK_CUT", "PHONE", "Browser", "Page", "Size", "Theme", "open_browser"]

Size = tuple[int, int]
Theme = Literal["light", "dark"]

DESKTOP: Final[Size] = (1280, 860)
PHONE: Final[Size] = (390, 844)
ONE_LINK_CUT: Final = "() => document.querySelectorAll('.ring .link.cut').length === 1"
"""For a moment a new leader has heard of no member."""
WAIT_MS: Final = 20_000.0
"""For what a page shows by itself. On a busy machine, too."""

FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    # A process for each page would cost more time than all that the pages do.
    *("--process-per-site", "--renderer-process-limit=1", "--in-process-gpu"),
)


class Page:
    """One page in a context of its own: no storage is shared."""

    def __init__(self, chromium: Chromium, size: Size, theme: Theme) -> None:
        self._context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=theme,
            accept_downloads=True,
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.tab: Tab = self._context.new_page()
        self.tab.set_default_timeout(WAIT_MS)
        self.faults: list[str] = []
        """Scripts that failed, what the policy forbade, and dialogs that a key or value has opened."""
        self.tab.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.tab.on("console", self._said)
        self.tab.on("dialog", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "Content-Security-Policy" in message.text:
            self.faults.append(message.text)

    def _asked(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, url: str, screen: str = "cluster") -> None:
        """Open a screen of the console of a node, in a page that is loaded for it."""
        address = f"{url}/console/#/{screen}"
        if self.tab.url.partition("#")[0] == address.partition("#")[0]:  # to go there would load nothing
            self.tab.evaluate("address => history.replaceState(null, '', address)", address)
            self.tab.reload()
        else:
            self.tab.goto(address)

    def open_key(self, url: str, key: bytes) -> None:
        """Open the screen of one key, and wait for its value."""
        self.open(url, f"key?k={encoded(key)}")
        self.tab.wait_for_selector("section[aria-label=Value]")

    def go_to_key(self, key: bytes) -> None:
        """Show the screen of another key in the page that is there, and wait for its value."""
        self.tab.evaluate("document.querySelector('section[aria-label=Value]').dataset.before = 'yes'")
        self.tab.evaluate("key => { location.hash = `#/key?k=${key}`; }", encoded(key))
        self.tab.wait_for_selector("section[aria-label=Value]:not([data-before])")

    def open_keys(self, url: str, prefix: bytes = b"", **more: str) -> None:
        """Open the screen of the keys below a prefix."""
        query = "".join(f"&{name}={value}" for name, value in more.items())
        self.open(url, f"keys?p={encoded(prefix)}{query}")

    def sees(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.tab.get_by_text(text).first.wait_for()

    def button(self, name: str) -> Locator:
        """A button by its whole name."""
        return self.tab.get_by_role("button", name=name, exact=True)

    def press(self, name: str) -> None:
        """Press a button."""
        self.button(name).first.click()

    def confirm(self, name: str) -> None:
        """Press a button of the open dialog, which closes it."""
        self.tab.locator("dialog").get_by_role("button", name=name, exact=True).click()
        self.tab.locator("dialog").wait_for(state="detached")

    def fill(self, label: str, text: str) -> None:
        """Fill in a field."""
        self.tab.get_by_label(label, exact=True).first.fill(text)

    def rows(self) -> list[str]:
        """The keys and folders that the list shows."""
        found: list[str] = self.tab.locator(".line .key").all_inner_texts()
        return found

    def sees_rows(self, expected: Sequence[str]) -> None:
        """Wait until the list shows exactly these."""
        self.tab.wait_for_function(
            "rows => JSON.stringify([...document.querySelectorAll('.line .key')].map(one => one.innerText))"
            " === JSON.stringify(rows)",
            arg=list(expected),
        )

    def nameless(self) -> list[str]:
        """Controls that a screen reader has no name for, as markup."""
        found: list[str] = self.tab.evaluate(
            """() => [...document.querySelectorAll('button, a, input, select, textarea, meter, [role]')]
            .filter(one => !one.hidden && !['status', 'alert', 'presentation'].includes(one.getAttribute('role')))
            .filter(one => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length))
            .map(one => one.outerHTML)"""
        )
        return found

    def picture(self, path: str) -> None:
        """Write what the page shows as PNG."""
        self.tab.screenshot(path=path)

    def close(self) -> None:
        """Close it."""
        self._context.close()


class Browser:
    """One Chromium."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium

    def page(self, size: Size = DESKTOP, theme: Theme = "light") -> Page:
        """A new page."""
        return Page(self._chromium, size, theme)


@contextmanager
def open_browser(program: str) -> Iterator[Browser]:
    """Start Chromium for a block."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield Browser(chromium)
        finally:
            chromium.close()


def encoded(key: bytes) -> str:
    """A key as the console's addresses have it."""
    return base64.urlsafe_b64encode(key).decode().rstrip("=")
