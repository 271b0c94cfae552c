"""For the run of APScheduler's own tests: what they take for its store in etcd is ours, on a cluster.

Loaded with `-p`. With `JOBS_PICKLED=1` the store pickles, as APScheduler's own do.
"""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import types

from syncline.contrib.apscheduler import JobStore

_numbers = itertools.count()


def make(path: str) -> JobStore:
    """A store of its own for each test."""
    name = f"{path.strip('/')}-{next(_numbers)}"
    if os.environ.get("JOBS_PICKLED"):
        return JobStore(name=name, dumps=pickle.dumps, loads=pickle.loads)
    return JobStore(name=name)


_module = types.ModuleType("apscheduler.jobstores.etcd")
vars(_module)["EtcdJobStore"] = make
sys.modules[_module.__name__] = _module
