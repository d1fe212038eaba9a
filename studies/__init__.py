"""Studies: once-for-all models next to models retrained for each trade-off value.

Each command of `oat` has one function here of the same name, which does the same and prints
nothing of its own. They are loaded on first use, so that `studies.trial` also runs where only
torch and numpy are installed.
"""

from typing import TYPE_CHECKING

from oat.lazy import on_first_use

if TYPE_CHECKING:  # for type checkers and editors; a test holds it against the table
    from studies.commands.clean import clean as clean
    from studies.commands.compare import compare as compare
    from studies.commands.demo import demo as demo
    from studies.commands.deploy import calibrate as calibrate
    from studies.commands.deploy import export as export
    from studies.commands.jobs import job as job
    from studies.commands.jobs import logs as logs
    from studies.commands.jobs import submit as submit
    from studies.commands.models import load_model as load_model
    from studies.commands.plan import plan as plan
    from studies.commands.power import power as power
    from studies.commands.preflight import preflight as preflight
    from studies.commands.run import run as run
    from studies.commands.status import points as points
    from studies.commands.status import status as status
    from studies.commands.tracking import runs as runs
    from studies.commands.tracking import sync as sync
    from studies.commands.tracking import ui as ui
    from studies.commands.tune import tune as tune
    from studies.study_file.catalogue import attacks as attacks
    from studies.study_file.catalogue import methods as methods
    from studies.study_file.commented import init as init
    from studies.study_file.json_schema import schema as schema
    from studies.study_file.loading import load_study as load_study
    from studies.study_file.loading import presets as presets
    from studies.study_file.loading import validate as validate

HOMES = {
    "presets": "study_file.loading",
    "methods": "study_file.catalogue",
    "attacks": "study_file.catalogue",
    "init": "study_file.commented",
    "schema": "study_file.json_schema",
    "validate": "study_file.loading",
    "load_study": "study_file.loading",
    "power": "commands.power",
    "preflight": "commands.preflight",
    "plan": "commands.plan",
    "run": "commands.run",
    "tune": "commands.tune",
    "submit": "commands.jobs",
    "job": "commands.jobs",
    "logs": "commands.jobs",
    "status": "commands.status",
    "points": "commands.status",
    "compare": "commands.compare",
    "load_model": "commands.models",
    "calibrate": "commands.deploy",
    "demo": "commands.demo",
    "export": "commands.deploy",
    "runs": "commands.tracking",
    "sync": "commands.tracking",
    "ui": "commands.tracking",
    "clean": "commands.clean",
}
"""The module below `studies` that defines each function."""

__all__ = list(HOMES)

__getattr__ = on_first_use(__name__, HOMES)
