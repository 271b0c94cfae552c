"""How fast the linearizability checker is: `python -m bench.checker [--operations N] [--clients C] [--keys K]`.

Judges a made-up history that is linearizable, of single keys and of transactions over several, with all revisions
told, and prints operations per second of processor time.
"""

from __future__ import annotations

import argparse
import random
import time

from tests.helpers.histories import made_up, random_request, single_key_request

from syncline.testing.linearizability.history import Operation
from syncline.testing.linearizability.verdict import judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--keys", type=int, default=10)
    arguments = parser.parse_args()
    keys = [b"key%d" % number for number in range(arguments.keys)]
    for name, ask in (("single keys", single_key_request), ("with transactions", random_request)):
        rng = random.Random(1)
        history: list[Operation] = made_up(
            rng, operations=arguments.operations, clients=arguments.clients, keys=keys, ask=ask
        )
        started_s = time.process_time()
        anomalies = judge(history)
        took_s = time.process_time() - started_s
        print(
            f"{name}: {len(history)} operations in {took_s:.2f} s: {len(history) / took_s:,.0f}/s, {len(anomalies)} bad"
        )


if __name__ == "__main__":
    main()
