"""`python -m tests.conformance [--rewrite] DIR_OR_FILE...`: run data files against the core.

Prints a line per file, what differs where one fails, and last `N passed, M failed`. The exit status is 0 where all
passed, 1 where one failed, 2 where the command line can't be used.
"""

from __future__ import annotations

import argparse
import sys

from tests.conformance.runner import find_files, rewrite_file, run_file


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Run traces against the core.")
    parser.add_argument("paths", nargs="+", metavar="DIR_OR_FILE")
    parser.add_argument(
        "--rewrite",
        action="store_true",
        help="record the outputs in the files instead (our own traces only; review every line of the diff)",
    )
    options = parser.parse_args(arguments)
    try:
        files = find_files(options.paths)
    except FileNotFoundError as error:
        parser.error(str(error))
    if not files:
        parser.error("no *.txt files there")
    if options.rewrite:
        for path in files:
            print("rewritten" if rewrite_file(path) else "unchanged", path)
        return 0
    passed = 0
    for path in files:
        verdict = run_file(path)
        print("FAILED" if verdict.failure else "passed", path, f"({verdict.commands} commands)")
        if verdict.failure:
            print(f"\n{verdict.failure}\n")
        else:
            passed += 1
    print(f"{passed} passed, {len(files) - passed} failed")
    return 0 if passed == len(files) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
