"""Plant, hunt, and tell: see the package's text."""

from __future__ import annotations

import argparse
import sys

import pytest

from tests.mutations import table
from tests.mutations.all import ALL
from tests.mutations.catalogue import Mutation


def hunt(mutation: Mutation) -> table.Result:
    """Plant one bug and look for it in every way that it must be noticed in."""
    results = []
    for one in mutation.hunts:
        with pytest.MonkeyPatch.context() as patch:
            mutation.plant(patch)
            results.append((one, one.hunter(one.limit)))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description="plant known bugs, and hunt them")
    parser.add_argument("names", nargs="*", metavar="NAME", help="the bugs to plant, as in the table; else all")
    parser.add_argument("--write", action="store_true", help=f"write the table into {table.DOCUMENT.name}")
    options = parser.parse_args()
    known = {mutation.name: mutation for mutation in ALL}
    if unknown := set(options.names) - set(known):
        parser.error(f"no such bug: {', '.join(sorted(unknown))}. There are: {', '.join(known)}")
    if options.write and options.names:
        parser.error("--write wants them all: name none")
    chosen = [known[name] for name in options.names or known]
    results = {}
    for mutation in chosen:
        results[mutation.name] = hunt(mutation)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    text = table.render(results)
    if options.write:
        table.write(text)
    sys.stdout.write(text)
    return 0 if all(result and all(catch for _, catch in result) for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
