"""Is tuning fair and safe? Digits, every method on one budget, killed on the way and continued.

``python -m benchmarks.tuning`` tunes a small study twice (two seeds) with ``oat tune``. Each time
the command and all its workers are killed with ``kill -9`` while a trial trains, and given again.
Then Optuna's database, the storage folder and MLflow are held against each other. Prints one JSON
object; the exit code is 1 if anything was lost, doubled or differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from studies.driver.places import study_folder
from studies.statistics.frontier import pareto_mask
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.tracking.experiment import Experiment
from studies.trial.records import read_result
from studies.tuning.candidates import name_of, tuned_methods
from studies.tuning.record import read_record, searches_of

OAT = Path(sys.executable).with_name("oat")
PATIENCE = 600.0
"""Seconds that one call may take."""

Points = set[tuple[str, float | None, float | None, float, float, float]]


def small_study(seed: int, budget: str) -> dict[str, Any]:
    """Return a study of digits with three methods to tune."""
    return {
        "name": f"tuning-{seed}",
        "data": {"name": "digits"},
        "model": {"name": "resnet8", "width": 16},
        "train": {"epochs": 4, "batch_size": 64, "lr": 0.4, "val_every": 2},
        "attack": {"eps": 0.2, "steps": 5},
        "seeds": [seed],
        "methods": [
            {"name": "oat", "lambda_choices": [0, 0.2, 1]},
            {"name": "pgd_at", "lam": [0, 0.2, 1]},
            {"name": "trades", "beta": [1, 6]},
        ],
        "evaluate": {"masking_images": 0, "held_out_images": 0},
        "tune": {
            "budget": budget,
            "space": {
                "train": {
                    "lr": {"low": 0.1, "high": 1.0, "log": True},
                    "weight_decay": {"low": 1e-5, "high": 1e-2, "log": True},
                },
                "trades": {"beta": {"low": 0.5, "high": 12, "log": True}},
            },
        },
    }


def tune_and_kill(file: Path, storage: Path, draw: random.Random) -> float:
    """Kill a tuning with all its workers while a trial trains; return after how many seconds."""
    began = time.monotonic()
    running = subprocess.Popen(
        [OAT, "tune", str(file), "--storage", str(storage)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    trials = storage / load_study(str(file)).name / "trials"
    lasts = draw.uniform(5.0, 25.0)
    since = None
    while since is None or time.monotonic() - since < lasts:
        if running.poll() is not None or time.monotonic() - began > PATIENCE:
            raise SystemExit("the study ended before it could be killed; raise --budget")
        if since is None and any(trials.glob("*/config.json")):
            since = time.monotonic()
        time.sleep(0.1)
    while not _trains(trials):
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    return time.monotonic() - began


def _trains(trials: Path) -> bool:
    """Tell whether some trial has begun and is neither trained nor failed."""
    return any(
        not any((place.parent / name).exists() for name in ("trained.json", "result.json"))
        for place in trials.glob("*/config.json")
    )


def optuna_trials(study: Study, storage: Path) -> dict[str, list[FrozenTrial]]:
    """Return Optuna's trials by method."""
    database = optuna.storages.RDBStorage(f"sqlite:///{storage / 'optuna.db'}")
    return {
        tuned.name: optuna.load_study(study_name=name_of(study, tuned), storage=database).trials
        for tuned in tuned_methods(study)
    }


def fronts(study: Study, storage: Path, found: dict[str, list[FrozenTrial]]) -> dict[str, bool]:
    """Tell of each method whether Optuna and MLflow have the same front."""
    table = Experiment(f"sqlite:///{storage / 'mlflow.db'}", study.name).points(kind="validation")
    same = {}
    for name, trials in found.items():
        ours: Points = {
            (t.user_attrs["run_key"], p["lam"], p["beta"], p["width_mult"], p["sa"], p["ra"])
            for t in trials
            if t.state == TrialState.COMPLETE
            for p in t.user_attrs["points"]
        }
        keys = {point[0] for point in ours}
        rows = table[table["run_key"].isin(keys)]
        theirs: Points = {
            (r.run_key, _known(r.lam), _known(r.beta), r.width_mult, r.sa, r.ra)
            for r in rows.itertuples()
        }
        same[name] = len(rows) == len(theirs) and _front(ours) == _front(theirs) and ours == theirs
    return same


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _front(points: Points) -> Points:
    listed = sorted(points, key=str)
    mask = pareto_mask(np.array([point[-2:] for point in listed]))
    return {point for point, on in zip(listed, mask, strict=True) if on}


def measure_one(seed: int, budget: str, scratch: Path) -> dict[str, Any]:
    """Tune once, with a kill on the way, and hold the three stores against each other."""
    storage, file = scratch / str(seed), scratch / f"{seed}.yaml"
    file.write_text(yaml.safe_dump(small_study(seed, budget)))
    study = load_study(str(file))
    began = time.monotonic()
    killed = tune_and_kill(file, storage, random.Random(seed))
    cut = optuna_trials(study, storage)
    dead = [t for trials in cut.values() for t in trials if t.state == TrialState.RUNNING]
    subprocess.run(
        [OAT, "tune", str(file), "--storage", str(storage)], check=True, capture_output=True
    )
    found = optuna_trials(study, storage)
    complete = {
        name: [t.user_attrs["run_key"] for t in trials if t.state == TrialState.COMPLETE]
        for name, trials in found.items()
    }
    folder = study_folder(study, storage)
    finished = {
        key
        for key in folder.sub("trials").names()
        if read_result(folder.sub(f"trials/{key}")) is not None
    }
    runs = Counter(
        run.data.tags["oat.key"]
        for run in Experiment(f"sqlite:///{storage / 'mlflow.db'}", study.name).search(
            "tags.`oat.kind` = 'trial'"
        )
    )
    wanted = {key for keys in complete.values() for key in keys}
    record = read_record(folder)
    assert record is not None
    searches = searches_of(record)
    after = {(name, t.number): t for name, trials in found.items() for t in trials}
    names = {id(t): name for name, trials in cut.items() for t in trials}
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "killed_after": round(killed, 1),
        "died": len(dead),
        "died_and_failed": sum(
            after[names[id(t)], t.number].state == TrialState.FAIL for t in dead
        ),
        "died_and_done_later": sum(
            any(
                other.params == t.params and other.state == TrialState.COMPLETE
                for other in found[names[id(t)]]
            )
            for t in dead
        ),
        "trials": {name: len(keys) for name, keys in complete.items()},
        "states": dict(Counter(t.state.name for trials in found.values() for t in trials)),
        "lost": len(finished - wanted) + len(wanted - finished) + len(wanted - runs.keys()),
        "doubled": sum(len(keys) - len(set(keys)) for keys in complete.values())
        + sum(count - 1 for count in runs.values()),
        "fronts_equal": fronts(study, storage, found),
        "device_seconds": {s.method: round(s.device_seconds, 2) for s in searches},
        "dearest_trial": round(max(t.device_seconds for s in searches for t in s.trials), 2),
    }


def sound(found: dict[str, Any]) -> bool:
    """Tell whether a tuning was as it must be."""
    spent = found["device_seconds"].values()
    return bool(
        found["lost"] == 0
        and found["doubled"] == 0
        and found["died"] > 0
        and found["died"] == found["died_and_failed"] == found["died_and_done_later"]
        and all(found["fronts_equal"].values())
        and max(spent) - min(spent) < found["dearest_trial"]
    )


def main() -> None:
    """Print what came of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="how many tunings")
    parser.add_argument("--budget", default="40s", help="device seconds of each method")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oat-tuning-") as scratch:
        each = [measure_one(seed, asked.budget, Path(scratch)) for seed in range(asked.seeds)]
    print(
        json.dumps({"budget": asked.budget, "sound": all(map(sound, each)), "each": each}, indent=1)
    )
    raise SystemExit(not all(map(sound, each)))


if __name__ == "__main__":
    main()
