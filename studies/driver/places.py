"""Where a study keeps things: its folder, MLflow, and the folder of local databases."""

import os
from pathlib import Path

from studies.errors import StorageError
from studies.storage.addresses import DEFAULT_STORAGE
from studies.storage.folder import Folder
from studies.storage.opening import open_folder
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
    named = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named, None
    home = home_of(storage, make=make)
    return f"sqlite:///{home / 'mlflow.db'}", (home / "mlflow-artifacts").as_uri()


def home_of(storage: str | Path, *, make: bool = True) -> Path:
    """Return the local folder of databases: the storage, or ``./outputs`` if that is remote.

    Args:
        storage: Folder or URI of all studies' results.
        make: Whether to make the folder.

    Raises:
        StorageError: It cannot be made.
    """
    home = Path(DEFAULT_STORAGE if "://" in str(storage) else storage).absolute()
    try:
        if make:
            home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"`--storage` '{storage}' cannot be made ({error}); choose a folder that can."
        ) from error
    return home
