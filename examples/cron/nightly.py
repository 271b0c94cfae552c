"""A job that cron starts on each machine, and that runs on one of them: python -m examples.cron.nightly"""

import os

from syncline import Client

kv = Client(os.environ["SYNCLINE_ENDPOINTS"])


@kv.once("nightly", every="1d")
def report() -> str:
    return "the report is sent"


with kv:
    print(report() or "nothing to do")  # None where it did not run
