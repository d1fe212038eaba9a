"""Where a study keeps things: its folder, MLflow, and the folder of local databases."""

import os
from pathlib import Path

from studies.errors import StorageError
from studies.storage.addresses import DEFAULT_STORAGE, is_uri
from studies.storage.folder import Folder
from studies.storage.opening import open_folder, path_of
from studies.storage.sqlite import LIMITS
from studies.study_file.study import Study


def study_folder(study: Study, storage: str | Path) -> Folder:
    """Return the study's own folder, ``<storage>/<name>``."""
    return open_folder(storage).sub(study.name)


def tracking_place(
    storage: str | Path, tracking_uri: str | None, *, make: bool = True
) -> tuple[str, str | None]:
    """Return where MLflow is, and where a database of our own keeps artifacts.

    The order is: the argument, ``MLFLOW_TRACKING_URI``, a SQLite file in the storage folder, or
    in ``./outputs`` where storage is not a local path (SQLite needs one).

    Args:
        storage: Folder or URI of all studies' results.
        tracking_uri: MLflow, if it is named.
        make: Whether to make the folder of that file.

    Raises:
        StorageError: The storage folder cannot be made.
    """
    if tracking_uri is not None:
        return tracking_uri, None
    if named := os.environ.get("MLFLOW_TRACKING_URI"):
        return named, None
    home = home_of(storage, make=make)
    return f"sqlite:///{home / 'mlflow.db'}", (home / "mlflow-artifacts").as_uri()


def home_of(storage: str | Path, *, make: bool = True) -> Path:
    """Return the local folder of databases: the storage, or ``./outputs`` if that is remote.

    Args:
        storage: Folder or URI of all studies' results.
        make: Whether to make the folder.

    Raises:
        StorageError: It cannot be made, or no database can lie there.
    """
    home = path_of(DEFAULT_STORAGE if is_uri(storage) else storage)
    if any(sign in str(home) for sign in "?%"):
        raise StorageError(
            f"`--storage` '{home}' must not hold {LIMITS}, as databases of MLflow and Optuna lie "
            "there; choose another folder, or other places by `--tracking-uri` and "
            "`--optuna-storage`."
        )
    try:
        if make:
            home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"`--storage` '{storage}' cannot be made ({error}); choose a folder that can."
        ) from error
    return home
