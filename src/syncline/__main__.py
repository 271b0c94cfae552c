"""Entry point of the `syncline` command and of `python -m syncline`."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> int:
    """Run the command. Ctrl-C while its code is still being loaded ends it without a traceback."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else: ignored by the parent
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from syncline.cli.main import main as command

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return command()


if __name__ == "__main__":
    sys.exit(main())
