"""Known bugs of other systems, planted into ours: does something notice?

    python -m tests.mutations [NAME…]            plant each (or these) and hunt it; prints the table
    python -m tests.mutations --write            the same for all, and writes the table into docs/correctness.md

The shipped code has no switch for any of them. `core.py`, `published.py`, `runtime.py`, `nodes.py` and `disks.py` plant
the bugs by replacing single functions for the time of a hunt. `hunters.py` looks for them. `catalogue.py` and
`newer.py` say which bug is looked for with what, and how soon it must be found.
"""
