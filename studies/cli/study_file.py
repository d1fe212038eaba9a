"""`oat init`, `oat schema` and `oat validate`: the study file, before anything runs."""

import json
from collections import Counter
from typing import Annotated

import typer

import studies
from studies.cli import completing
from studies.cli.options import Overrides, StudyArgument
from studies.cli.printing import err
from studies.console import say


def init(
    preset: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PRESET",
            help="What to start from; a file as well.",
            autocompletion=completing.study,
        ),
    ] = "quickstart",
    name: Annotated[
        str | None,
        typer.Option(help="Name of the new study; my-PRESET if not given, of a file its own."),
    ] = None,
) -> None:
    """Write a commented study file to standard output, with every key that there is."""
    print(studies.init(preset, name=name), end="")


def schema() -> None:
    """Print the JSON Schema of the study file, for editors."""
    print(json.dumps(studies.schema(), indent=1, ensure_ascii=False))


def validate(study: StudyArgument, overrides: Overrides = None) -> None:
    """Check a study file without running anything; exit code 2 if it is faulty."""
    from studies.planning.judgements import count_points
    from studies.study_file.unused import without_effect

    found = studies.validate(study, overrides or ())
    methods = Counter(method.name for method in found.all_methods())
    counts = ", ".join(f"{count} {name}" for name, count in methods.items())
    seeds = f"{len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"
    trials = len(found.trials())
    print(
        f"Study {found.name} is valid: {trials} trials ({counts}; {seeds}), "
        f"{count_points(found)} points to evaluate."
    )
    for said in without_effect(found):
        say(err, said)
