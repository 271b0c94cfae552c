"""The modules that blocks of Python become, for the type checkers. `make verify` runs those on all pages."""

from __future__ import annotations

from typing import Final

from tests.docs_types import SETTINGS, modules_of

PAGE: Final = """# A page

Text that is longer than the settings.

```python
from syncline import Counter, fine as good

total = good(1)


def main() -> None: ...
```

```python
async with total.opened() as kv:
    print(kv, readers_own)
```

```python
def main() -> None:
    print(kv, total, Counter)
```
"""


def test_docs_types_modules_have_the_lines_of_their_page() -> None:
    lines = PAGE.splitlines()
    modules = dict(modules_of("docs/a-page.md", PAGE))
    assert list(modules) == ["docs_a_page_0", "docs_a_page_1", "docs_a_page_2"]
    for source in modules.values():
        body = source.removesuffix(SETTINGS).splitlines()
        for at, one in enumerate(body[1:], 1):
            assert one.strip() in ("", "async def program() -> None:", lines[at].strip())


def test_docs_types_modules_import_what_earlier_blocks_define() -> None:
    imports = [source.splitlines()[0] for _, source in modules_of("docs/a-page.md", PAGE)]
    assert imports == [
        "",
        "from docs_a_page_0 import total",
        "from syncline import Counter; from docs_a_page_0 import total",
    ]


def test_docs_types_block_that_awaits_stands_in_a_coroutine() -> None:
    source = list(modules_of("docs/a-page.md", PAGE))[1][1].splitlines()
    at = source.index("async def program() -> None:")
    assert source[at + 1].startswith("    async with total.opened()")
