"""The door of the `oat` command: nothing that happens to its streams or to it ends in a traceback.

It imports little, as the command's own modules take a second, in which Ctrl-C may come.
"""

import errno
import gc
import io
import os
import signal
import sys

NOT_WRITTEN = 2
NEW_OBJECTS = 100_000
"""After so many Python looks for garbage; its own figure, 700, makes imports a fifth longer."""


def main() -> None:
    """Run the command; see `studies.cli.app.main`."""
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # λ is in names and files, whatever the locale
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as `kill` and Slurm stop a run
    try:
        from studies.cli.app import main as run

        run()
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except OSError as error:
        if not _is_of_stdout():
            raise
        _give_up(error)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of what ends the process
        try:
            _flush()
        except OSError as error:
            _give_up(error)


def _flush() -> None:
    """Write what is left for standard output, if there is one."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _is_of_stdout() -> bool:
    """Tell whether standard output takes nothing more, be it buffered or not."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def _give_up(error: OSError) -> None:
    """End: whoever reads standard output has gone, or what it is written to does not take it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own last flush
    if error.errno == errno.EPIPE:
        raise SystemExit(1) from None
    print(f"Standard output cannot be written: {error.strerror}.", file=sys.stderr)
    raise SystemExit(NOT_WRITTEN) from None
