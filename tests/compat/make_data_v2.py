"""Makes the golden data directory of format 2: `python -m tests.compat.make_data_v2 DIRECTORY`.

It was run once, and its result is `tests/fixtures/data-v2`. The content is that of `make_data_v1`.
"""

from __future__ import annotations

import sys

from tests.compat.make_data_v1 import main

if __name__ == "__main__":
    main(sys.argv[1])
