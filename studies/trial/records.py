"""What a trial's folder holds, written and read: points, correctness, result, epochs."""

import io
import json
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from oat.epoch import EpochRecord
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError, seal, unseal, write_lines, write_sealed
from studies.trial.evaluated import MaskingCheck, Point
from studies.trial.stored import Epoch, Failed, Trained, TrialResult
from studies.trial.weights import weights_file

CHECKS = "checks.jsonl"

Correct = dict[str, np.ndarray[Any, Any]]
"""Which images points have right: boolean (N,) under ``<point_key>.clean`` and ``.robust``."""

_PARSING = threading.Lock()

UNREADABLE = (
    OSError,
    ValueError,
    TypeError,  # a lone array
    KeyError,
    EOFError,
    RuntimeError,  # marked as encrypted, or as of a kind that zipfile does not know
    zipfile.BadZipFile,
)
"""What reading a damaged archive of arrays raises."""


def write_points(
    folder: Folder, rows: Sequence[Point], correct: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    """Write correctness before rows: a row stands only on stored correctness."""
    buffer = io.BytesIO()
    packed = {key: np.packbits(value) for key, value in correct.items()}
    np.savez(buffer, **packed)  # type: ignore[arg-type]
    folder.write("correct.npz", buffer.getvalue())
    write_lines(folder, "points.jsonl", [seal(row) for row in rows])


def _arrays(stored: bytes) -> Correct:
    """Read an archive of arrays, one thread at a time.

    NumPy parses headers as Python literals, and CPython 3.11 has one parser state for all threads:
    now and then it raises a SystemError for a sound header (its issue 106905), so ask again.
    """
    with _PARSING:
        try:
            with np.load(io.BytesIO(stored)) as archive:
                return dict(archive)
        except SystemError:
            with np.load(io.BytesIO(stored)) as archive:
                return dict(archive)


def read_points(folder: Folder, training_id: str) -> tuple[list[Point], Correct]:
    """Read the points of one training and the correctness of each image.

    Rows that are damaged or of another training, and rows whose correctness is missing or does
    not agree with them, are left out: they are judged anew.

    Returns:
        Rows, and boolean arrays (N,) under ``<point_key>.clean`` and ``<point_key>.robust``.

    Raises:
        OSError: A file cannot be read; whoever took that for none would write over it.
    """
    try:
        lines = folder.read("points.jsonl").splitlines()
        stored = folder.read("correct.npz")
    except FileNotFoundError:
        return [], {}
    try:
        packed = _arrays(stored)
    except UNREADABLE:
        return [], {}
    sound: list[Point] = []
    correct: Correct = {}
    for line in lines:
        try:
            row = cast(Point, unseal(line))
        except ResultError:
            continue
        keys = [f"{row['point_key']}.{kind}" for kind in ("clean", "robust")]
        if row["training_id"] != training_id or any(key not in packed for key in keys):
            continue
        clean, robust = (
            np.unpackbits(packed[key], count=row["images"]).astype(bool) for key in keys
        )
        if abs(clean.mean() - row["sa"]) < 1e-9 and abs(robust.mean() - row["ra"]) < 1e-9:
            sound.append(row)
            correct |= dict(zip(keys, (clean, robust), strict=True))
    return sound, correct


def write_checks(folder: Folder, checks: Sequence[MaskingCheck]) -> None:
    """Write the checks for masked gradients, one of each operating point."""
    write_lines(folder, CHECKS, [seal(check) for check in checks])


def read_checks(folder: Folder, training_id: str) -> list[MaskingCheck]:
    """Read the checks of one training; those damaged or of another are left out."""
    try:
        lines = folder.read(CHECKS).splitlines()
    except FileNotFoundError:
        return []
    checks = []
    for line in lines:
        try:
            check = cast(MaskingCheck, unseal(line))
        except ResultError:
            continue
        if check["training_id"] == training_id:
            checks.append(check)
    return checks


class JudgingProgress:
    """What a long attack on one operating point has done, so that it goes on after a kill.

    Args:
        folder: The trial's folder.
        point_key: Of the point.
        judgement: Digest of all that decides its numbers; what is kept of another is ignored.
    """

    PREFIX = "judging-"

    def __init__(self, folder: Folder, point_key: str, judgement: str) -> None:
        self._folder, self._judgement = folder, judgement
        self.name = f"{self.PREFIX}{point_key}.json"

    def read(self) -> dict[str, Any]:
        """Return what was written last; empty if there is nothing sound."""
        try:
            record = unseal(self._folder.read(self.name))
        except (FileNotFoundError, ResultError):
            return {}
        return dict(record["state"]) if record["judgement"] == self._judgement else {}

    def write(self, state: dict[str, Any]) -> None:
        """Keep a state."""
        write_sealed(self._folder, self.name, {"judgement": self._judgement, "state": state})


def read_result(folder: Folder) -> TrialResult | None:
    """Read ``result.json``; None where there is none.

    Raises:
        ResultError: It is damaged, or the model that it stands for is cut off or missing.
    """
    try:
        result = cast(TrialResult, unseal(folder.read("result.json")))
    except FileNotFoundError:
        return None
    except ResultError as error:
        raise ResultError(f"'{folder.sub('result.json').uri}' is damaged.") from error
    if result["status"] == "done":
        for rule, weights in result["trained"]["weights"].items():
            if folder.size(weights_file(rule)) != weights["bytes"]:
                raise ResultError(f"'{folder.sub(weights_file(rule)).uri}' is cut off or missing.")
    return result


def read_trained(folder: Folder) -> Trained | None:
    """Read ``trained.json``, of a trial that was stopped between training and its result.

    None where there is none. So its weights are not made a second time, which on a GPU would not
    be the same ones, bit for bit.

    Raises:
        ResultError: It is damaged, or weights that it stands for are missing.
    """
    try:
        trained = cast(Trained, unseal(folder.read("trained.json")))
    except FileNotFoundError:
        return None
    for rule in trained["weights"]:
        if folder.size(weights_file(rule)) is None:
            raise ResultError(f"'{folder.sub(weights_file(rule)).uri}' is missing.")
    return trained


def read_failure(folder: Folder) -> str | None:
    """Read why the last try of a trial failed, and where more of it stands; None if it did not."""
    try:
        record = read_failed(folder)
    except ResultError:
        return "its failure.json is damaged"
    if record is None:
        return None
    ours = record.get("kind") == "error"  # the other kinds say what to mend
    where = f" (traceback in {folder.sub('failure.json').uri})" if ours else ""
    return f"{record['error']}{where}"


def read_failed(folder: Folder) -> Failed | None:
    """Read how the last try of a trial failed; None if it did not.

    Raises:
        ResultError: The record is damaged.
    """
    try:
        return cast(Failed, unseal(folder.read("failure.json")))
    except FileNotFoundError:
        return None


def read_epochs(folder: Folder) -> list[Epoch]:
    """Read the epochs of a trial; those from a damaged line on are left out."""
    try:
        lines = folder.read("epochs.jsonl").splitlines()
    except FileNotFoundError:
        return []
    epochs = []
    for line in lines:
        try:
            epochs.append(epoch_of(EpochRecord(**json.loads(line))))
        except (ValueError, TypeError):
            break
    return epochs


def epoch_of(record: EpochRecord) -> Epoch:
    """Return what an epoch did as plain values."""
    return cast(Epoch, asdict(record))
