"""The entry point of the installed `tally`; it runs before the slow imports.

Until a command runs, Ctrl-C ends the process like any program, without a traceback of imports. Standard
streams that the caller has closed (`>&-`) are opened as /dev/null, so that no connection gets their number.
"""

from __future__ import annotations

import io
import os
import signal
import sys


def main() -> None:
    """The entry point of the installed command."""
    takes_interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if takes_interrupts:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_closed_streams()
    _write_in_any_encoding()
    from controller.cli.main import main as run

    if takes_interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _open_closed_streams() -> None:
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # in this order, each gets the lowest free number, which is its own
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _write_in_any_encoding() -> None:
    """Escape what stdout's encoding lacks, as stderr does: a table or a name ends no command."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
