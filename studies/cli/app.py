"""The `oat` command: results on standard output, everything else on standard error."""

import logging
import signal
import sys
from importlib import metadata
from typing import Annotated

import typer

from oat.own_code import OwnCodeError
from studies.cli.catalogue import attacks, methods, presets
from studies.cli.clean import clean
from studies.cli.compare import compare
from studies.cli.demo import demo
from studies.cli.deploying import calibrate, export
from studies.cli.jobs import job, logs, submit
from studies.cli.power import power
from studies.cli.printing import err
from studies.cli.run import plan, points, preflight, run, status
from studies.cli.study_file import init, schema, validate
from studies.cli.tracking import runs, sync, ui
from studies.cli.tune import tune
from studies.console import say
from studies.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


INTERRUPTED = 128 + signal.SIGINT
"""Exit code of typer after Ctrl-C."""
GOES_ON = "The same command goes on from the last checkpoints."
AFTERWARDS = {"run": GOES_ON, "tune": GOES_ON, "logs": "The job goes on."}
"""What is said after Ctrl-C beyond that a command has stopped."""


def _version(asked: bool) -> None:
    if asked:
        print(f"oat-studies {metadata.version('oat-studies')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Is the trade-off of once-for-all adversarial training free? Studies that answer it."""


# in the order of `oat --help`
for command in (
    presets,
    methods,
    attacks,
    init,
    schema,
    validate,
    power,
    preflight,
    plan,
    run,
    tune,
    submit,
    job,
    logs,
    status,
    points,
    compare,
    calibrate,
    demo,
    export,
    runs,
    sync,
    ui,
    clean,
):
    app.command()(command)


def main() -> None:
    """Run the command; turn what the user can mend into one sentence and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("mlflow", "alembic", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        app(prog_name="oat", standalone_mode=True)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            command = next(iter(sys.argv[1:]), "")
            err.print(f"Stopped. {AFTERWARDS.get(command, '')}".rstrip())
        raise
    except (UserError, OwnCodeError) as error:
        say(err, str(error))
        raise SystemExit(2) from None
