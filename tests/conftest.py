"""What holds for all tests."""

import os
import signal
import sys

from hypothesis import settings

settings.register_profile("syncline", deadline=None)  # a busy machine is no error
settings.load_profile("syncline")

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would every command that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A node takes as long to compile Syncline as it takes for all the rest of its start. So where the caller keeps Python
# from writing compiled modules, those that tests start keep theirs out of the source tree, in the environment's folder.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", os.path.join(sys.prefix, "bytecode"))
