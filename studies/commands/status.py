"""What a study's storage says: `studies.status` and `studies.points`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from studies.driver.places import study_folder
from studies.planning.expand import make_plan
from studies.results.points import check_columns
from studies.results.reading import Which, study_points
from studies.results.shown import Points
from studies.storage.addresses import DEFAULT_STORAGE
from studies.study_file.loading import Source, load_study
from studies.trial.records import read_epochs


def status(
    study: Source, *, storage: str | Path = DEFAULT_STORAGE, overrides: Sequence[str] = ()
) -> pd.DataFrame:
    """Return a row for each trial: label, seed, state, epoch, validation SA and RA, run key.

    Read from storage alone, so it can be called from anywhere while a study runs.
    """
    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    rows = []
    for trial in make_plan(resolved, folder).trials:
        epochs = read_epochs(folder.sub(f"trials/{trial.run_key}"))
        judged = [e for e in epochs if e["sa_val"] is not None]
        rows.append(
            {
                "trial": trial.label,
                "seed": trial.seed,
                "state": trial.state,
                "epoch": epochs[-1]["epoch"] if epochs else 0,
                "epochs": trial.job["config"]["train"]["epochs"] if trial.units else 0,
                "sa_val": judged[-1]["sa_val"] if judged else float("nan"),
                "ra_val": judged[-1]["ra_val"] if judged else float("nan"),
                "device_seconds": epochs[-1]["device_seconds"] if epochs else 0.0,
                "reason": trial.reason,
                "run_key": trial.run_key,
            }
        )
    return pd.DataFrame(rows)


def points(
    study: Source,
    *,
    columns: Sequence[str] | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    held_out: bool = False,
    overrides: Sequence[str] = (),
) -> pd.DataFrame:
    """Return the points of a study from storage, a row for each.

    A notebook shows the frame, and what is selected of it, with what each column means.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        columns: Columns to return, in order; None is all of `studies.results.points.COLUMNS`.
        storage: Folder or URI of all studies' results.
        held_out: Whether to return the points on held-out images instead, by which a comparison
            chooses λ.
        overrides: ``path.to.key=value`` each.

    Raises:
        QueryError: There is no such column.
    """
    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    which: Which = "held_out" if held_out else "points"
    table = Points.of(study_points(make_plan(resolved, folder), folder, which))
    if columns is None:
        return table
    check_columns(columns, table.columns)
    return table[list(columns)]
