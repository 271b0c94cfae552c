"""Where the `syncline` command begins, `python -m syncline` too."""

from __future__ import annotations

import signal
import sys

from syncline.cli.streams import open_closed_streams

__all__ = ["main"]


def main() -> int:
    """Run the command. Ctrl-C while its code is still being loaded ends it without a traceback."""
    open_closed_streams()
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it was told to ignore it
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from syncline.cli.main import main as command

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return command()


if __name__ == "__main__":
    sys.exit(main())
