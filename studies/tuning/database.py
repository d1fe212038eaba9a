"""Optuna's database: opened, checked against the study, and its faults as one sentence."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from sqlalchemy.exc import SQLAlchemyError

from studies.errors import TuningError
from studies.storage.addresses import is_uri, without_credentials
from studies.storage.sqlite import why_no_file
from studies.tuning.candidates import Tunable, name_of

WAIT_SECONDS = 240.0
"""How long a SQLite file is waited for that another process holds; as long as storage is."""

SETTINGS = "oat.settings"
"""User attribute of an Optuna study: all that decides its values."""


def check_url(url: str) -> None:
    """Refuse what is no URL of a database, or of a file that cannot be one.

    Raises:
        TuningError: As above.
    """
    hidden = without_credentials(url)
    if not is_uri(url):
        raise TuningError(
            "Optuna's storage (`--optuna-storage`) must be the URL of a database, such as "
            f"'sqlite:////path/optuna.db', got '{hidden}'."
        )
    if (why := why_no_file(url)) is not None:
        raise TuningError(f"Optuna's storage '{hidden}' cannot be used: {why}.")


@contextmanager
def optuna_faults(url: str) -> Iterator[None]:
    """Turn what Optuna's database does not do into one sentence.

    Raises:
        TuningError: It does not answer, refuses, or is of another version.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, RuntimeError) as error:
        ours = ("DB access module", "runtime optuna version")  # of a class that many raise
        if isinstance(error, ImportError | RuntimeError) and not any(w in str(error) for w in ours):
            raise
        cause = getattr(error, "orig", None) or error.__cause__ or error
        said = " ".join(str(cause).split()).rstrip(".")
    else:
        return
    hidden = without_credentials(url)
    raise TuningError(
        f"Optuna's storage '{hidden}' does not do what it must ({said.replace(url, hidden)}); "
        "what has been trained is safe, and the same command goes on once it does."
    )


def open_database(url: str) -> optuna.storages.RDBStorage:
    """Open Optuna's database, or make it; a file that another process holds is waited for."""
    sqlite = url.startswith("sqlite")
    return optuna.storages.RDBStorage(
        url, engine_kwargs={"connect_args": {"timeout": WAIT_SECONDS}} if sqlite else None
    )


def open_search(tuned: Tunable, database: optuna.storages.BaseStorage, url: str) -> optuna.Study:
    """Open a method's Optuna study, or make it.

    Raises:
        TuningError: There is one of this name that was made for other settings, or by another
            version.
    """
    name = name_of(tuned.study, tuned)
    search = optuna.create_study(
        study_name=name,
        storage=database,
        directions=["maximize", "maximize"],
        load_if_exists=True,
    )
    wanted = tuned.decides()
    found = search.user_attrs.get(SETTINGS)
    if found is None and not search.trials:
        with warnings.catch_warnings():
            # "experimental", and all that it does is to name the axes of the dashboard
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            search.set_metric_names(["SA", "RA"])
        search.set_user_attr(SETTINGS, wanted)
        return search
    if found != json.loads(json.dumps(wanted)):
        known = found or {}
        odd = [key for key in wanted if known.get(key) != json.loads(json.dumps(wanted[key]))]
        raise TuningError(
            f"Optuna's storage '{without_credentials(url)}' has a study '{name}' with another "
            f"{' and '.join(odd or ['origin'])}; give another `--optuna-storage`, or the study "
            "another `name`."
        )
    return search
