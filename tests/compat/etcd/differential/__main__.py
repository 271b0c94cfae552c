"""`python -m tests.compat.etcd.differential --seeds 1-200`: compare with a real etcd, and print what differs."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import grpc

from syncline.testing.process_cluster import ProcessCluster
from tests.compat.etcd.differential.generator import sequence
from tests.compat.etcd.differential.runs import difference_of, shrunk
from tests.compat.etcd.differential.side import Side
from tests.compat.etcd.real_etcd import real_etcd


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compat.etcd.differential", description=__doc__)
    parser.add_argument("--seeds", default="1-50", help="FIRST-LAST, or one seed")
    parser.add_argument("--show", type=int, default=1, help="of each kind of difference, how many are shown")
    parser.add_argument("--wait", type=float, default=1.0, help="seconds that an answer to a watch may take")
    given = parser.parse_args(arguments)
    first, _, last = given.seeds.partition("-")
    program = shutil.which("etcd")
    if program is None:
        parser.error("there is no etcd: install Debian's etcd-server")
    kinds: Counter[str] = Counter()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(real_etcd(program, directory, "--bcrypt-cost", "4"))
        cluster = stack.enter_context(ProcessCluster(str(directory / "ours"), nodes=1))
        theirs = stack.enter_context(Side("etcd", url, wait_s=given.wait))
        ours = stack.enter_context(Side("ours", cluster.endpoints[0], wait_s=given.wait))
        for seed in range(int(first), int(last or first) + 1):
            try:
                found = difference_of(theirs, ours, sequence(seed))
                if found is None:
                    continue
                kinds[found.kind] += 1
                if kinds[found.kind] <= given.show:
                    found = shrunk(theirs, ours, found)
                    print(f"seed {seed}: {found.kind}\n{found}\n", flush=True)
            except (grpc.RpcError, AssertionError) as error:
                print("seed", seed, *sequence(seed), error, sep="\n", flush=True)
                print((directory / "log").read_text()[-3000:])
                break
    for kind, number in kinds.most_common():
        print(f"{number:5} {kind}")
    print(f"{kinds.total()} sequences differ")
    return int(bool(kinds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
