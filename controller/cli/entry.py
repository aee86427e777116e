"""Where the installed `tally` begins: before all that takes time to import.

Until a command runs, Ctrl-C ends the process as it ends any program, without a traceback of imports. Standard
streams that the caller has closed (`>&-`) lead nowhere, rather than to the first connection that is given
their number.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """The entry point of the installed command."""
    takes_interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if takes_interrupts:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_closed_streams()
    from controller.cli.main import main as run

    if takes_interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _open_closed_streams() -> None:
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # in this order each takes the lowest number, which is its own
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


if __name__ == "__main__":
    main()
