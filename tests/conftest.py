"""What holds for all tests."""

import signal

from hypothesis import settings

settings.register_profile("syncline", deadline=None)  # a busy machine is no error
settings.load_profile("syncline")

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would every command that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
