"""Does a study survive everything? A drill that breaks a real cluster while a study runs on it.

``python -m benchmarks.faults --seeds 20`` starts nodes, an MLflow server (on PostgreSQL where that
is installed) and, for every second seed, an S3 server, all on this machine. It runs a small real
study with ``oat run``, injects every fault at random moments drawn from the seed, gives the same
command again whenever the driver has ended, and prints one JSON object: how often each fault was
injected, and what was planned, finished, lost or duplicated, in storage and in MLflow.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.drill import FAULTS, Drill
from benchmarks.servers import (
    S3,
    Mlflow,
    mlflow_server,
    postgres_programs,
    postgres_server,
    s3_server,
)
from benchmarks.site import Site, site
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.results.reading import study_points
from studies.storage.folder import Folder
from studies.storage.local import LocalFolder
from studies.storage.sealed import digest
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.trial.records import read_result
from studies.trial.run import run_trial
from studies.trial.weights import weights_file

DISK_BYTES = 64 * 2**20
"""Size of the disk that is filled."""


def pictures(folder: Path) -> None:
    """Write scikit-learn's digits as an image folder, so that the data are files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images[:200], digits.target[:200], strict=True)):
        place = folder / ("test" if i % 4 == 0 else "train") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).convert("RGB").save(place / f"{i}.png")


def drill_study(name: str, data: Path, epochs: int) -> Study:
    """Return a study of seven trials: one diverges, one asks for a whole GPU."""
    return load_study(
        {
            "name": name,
            "data": {"name": "imagefolder", "root": str(data), "image_size": 8},
            "model": {"name": "resnet8", "width": 4},
            "train": {"epochs": epochs, "batch_size": 16, "val_images": 16, "val_every": epochs},
            "attack": {"eps": 0.1, "steps": 2},
            "methods": [
                {
                    "name": "oats",
                    "lambda_choices": [0, 1],
                    "width_mults": [0.5, 1],
                    "resources": {"cpu": 1, "gpu": 1, "device": "cpu"},
                },
                {"name": "oat", "lambda_choices": [0, 0.5, 1]},
                {"name": "pgd_at", "lam": [0, 0.5, 1]},
                {"name": "trades", "beta": [1, 1e38]},
            ],
            "evaluate": {"lams": [0, 1], "attacks": [{"steps": 2}], "masking_images": 10},
            "resources": {"cpu": 1, "gpu": 0.25, "device": "cpu"},
        }
    )


FELT = {
    "node gone": "its node is gone, goes on",
    "worker died": "its worker died, goes on",
    "out of memory": "out of memory, goes on",
    "does not begin": "does not begin; it is ended",
    "data error": "DataError",
    "storage away": "does not take writes",
    "mlflow away": "MLflow does not take results",
    "refused": "is being run already",
    "from a checkpoint": "go on from a checkpoint",
}
"""What drivers say of faults that reached them."""


Outcomes = Mapping[str, Any]
"""What each trial ended with, by run key: see `outcomes`."""


def outcomes(plan: Plan, folder: Folder) -> dict[str, Any]:
    """Return by run key how each trial ended, its weights, and what it has right."""
    found: dict[str, Any] = {}
    table = study_points(plan, folder).set_index("run_key")
    for trial in plan.trials:
        place = folder.sub(f"trials/{trial.run_key}")
        result = read_result(place)
        if result is None or result["status"] != "done":
            found[trial.run_key] = result and (result["status"], result["epoch"])
            continue
        points = table.loc[[trial.run_key]].sort_values("point_key")
        accuracies = points[["point_key", "sa", "ra"]].to_numpy().tolist()
        found[trial.run_key] = ("done", place.read(weights_file("last")), accuracies)
    return found


def undisturbed(study: Study, folder: Path) -> dict[str, Any]:
    """Run the study here, one trial after the other, without a cluster."""
    place = LocalFolder(folder / study.name)
    for trial in make_plan(study, place).to_run():
        run_trial(trial.job, place.sub(f"trials/{trial.run_key}"), lambda _: None)
    return outcomes(make_plan(study, place), place)


def judge(drill: Drill, wanted: Outcomes) -> dict[str, Any]:
    """Count what a seed has left: in storage, and in MLflow."""
    plan, folder = drill.plan(), drill.folder()
    found = outcomes(plan, folder)
    table = study_points(plan, folder)
    finished = sum(found[key] is not None for key in wanted)
    keys = [("study", digest(drill.study.dump()))]
    keys += [("trial", trial.run_key) for trial in plan.trials]
    for trial in plan.trials:
        if trial.state == "done":
            keys += [("point", point["point_key"]) for point in trial.job["points"]]
            keys += [("validation", point["point_key"]) for point in trial.job["held_out"]]
    runs = _runs(drill)
    here = set(folder.sub("trials").names())
    return {
        "planned": len(wanted),
        "finished": finished,
        "lost": len(wanted) - finished + len(drill.unmade),
        "duplicated": len(here - wanted.keys()) + int(table["point_key"].duplicated().sum()),
        "missing": sum(runs[key] == 0 for key in keys),
        "doubled": sum(runs[key] > 1 for key in keys) + sum(key not in keys for key in runs),
        "weights_equal": found == dict(wanted),
        "mlflow_equal": _mlflow_equals(drill, table),
        "driver_starts": drill.starts,
        "felt": {what: len(re.findall(words, drill.said())) for what, words in FELT.items()},
        "odd": drill.odd,
    }


def _mlflow_equals(drill: Drill, table: pd.DataFrame) -> bool:
    """Tell whether MLflow's points are those of storage."""
    from studies.tracking.tracker import Tracker

    columns = ["point_key", "sa", "ra", "training_id", "attack", "images", "seed"]
    stored, logged = (
        frame[columns].sort_values("point_key", ignore_index=True)
        for frame in (table, Tracker(drill.mlflow.url, drill.study.name).points())
    )
    return bool(stored.equals(logged))


def _runs(drill: Drill) -> Counter[tuple[str, str]]:
    """Count the active runs of each key in MLflow."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(drill.mlflow.url)
    experiment = client.get_experiment_by_name(drill.study.name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    drill.odd += [
        f"run {r.info.run_name} is still open" for r in found if r.info.status == "RUNNING"
    ]
    tags = [run.data.tags for run in found]
    return Counter((t["oat.kind"], t["oat.key"]) for t in tags)


@contextmanager
def small_disk(size: int) -> Iterator[Path | None]:
    """Mount a disk of so many bytes; None where that is not allowed."""
    with tempfile.TemporaryDirectory(prefix="oat-disk-") as name:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", name],
            check=False, capture_output=True,
        )  # fmt: skip
        try:
            yield Path(name) if mounted.returncode == 0 else None
        finally:
            if mounted.returncode == 0:
                subprocess.run(["umount", "-l", name], check=True)


def run_seed(
    seed: int, here: Site, mlflow: Mlflow, s3: S3, data: Path, epochs: int, wanted: Outcomes
) -> tuple[Drill, dict[str, Any]]:
    """Run one drill; storage is a disk for even seeds and S3 for odd ones."""
    study = drill_study(f"drill-{seed}", data, epochs)  # its name decides no number
    with ExitStack() as stack:
        disk = None
        if seed % 2:
            storage = "s3://drill/studies"
        else:
            disk = stack.enter_context(small_disk(DISK_BYTES))
            storage = str(disk or stack.enter_context(tempfile.TemporaryDirectory()))
        drill = Drill(
            here, mlflow, s3 if seed % 2 else None, disk, study, storage, data, random.Random(seed)
        )
        drill.run()
        found = judge(drill, wanted)
    while len(here.nodes) < 3:
        here.add_node()
    return drill, found


def measure(seeds: int, epochs: int, first: int = 0, logs: Path | None = None) -> dict[str, Any]:
    """Run the drill for several seeds and add up what came of them.

    Args:
        seeds: How many.
        epochs: Of each training.
        first: The first seed.
        logs: Folder to keep what the drivers said in.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oat-drill-")))
        pictures(scratch / "data")
        wanted = undisturbed(drill_study("undisturbed", scratch / "data", epochs), scratch)
        s3 = stack.enter_context(s3_server())
        os.environ |= s3.environment
        s3.make_bucket("drill")
        store = None
        if postgres_programs() is not None:
            store = stack.enter_context(postgres_server()).make("drill")
        (scratch / "mlflow").mkdir()
        mlflow = stack.enter_context(mlflow_server(scratch / "mlflow", store))
        here = stack.enter_context(site(3))
        faults: Counter[str] = Counter()
        total: Counter[str] = Counter()
        felt: Counter[str] = Counter()
        equal, odd, each = True, [], []
        for seed in range(first, first + seeds):
            began = time.monotonic()
            drill, found = run_seed(seed, here, mlflow, s3, scratch / "data", epochs, wanted)
            faults += drill.injected
            for name in ("planned", "finished", "lost", "duplicated", "missing", "doubled"):
                total[name] += found[name]
            equal &= found["weights_equal"] and found["mlflow_equal"]
            felt += Counter(found["felt"])
            odd += [f"seed {seed}: {said}" for said in found["odd"]]
            each.append({"seed": seed, "seconds": round(time.monotonic() - began), **found,
                         "faults": dict(drill.injected)})  # fmt: skip
            print(json.dumps(each[-1]), file=sys.stderr, flush=True)
            if logs is not None:
                (logs / f"drill-{seed}.log").write_text(drill.said())
        return {
            "seeds": seeds,
            "mlflow_store": "postgresql" if store else "sqlite",
            "faults": {name: faults[name] for name in FAULTS},
            "felt": dict(felt),
            **{name: total[name] for name in ("planned", "finished", "lost", "duplicated")},
            "runs": {name: total[name] for name in ("missing", "doubled")},
            "weights_equal": equal,
            "odd": odd,
            "each": each,
        }


def main() -> None:
    """Print what came of the drill as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many drills")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--epochs", type=int, default=8, help="of each training")
    parser.add_argument("--logs", type=Path, help="keep what the drivers said in this folder")
    asked = parser.parse_args()
    found = measure(asked.seeds, asked.epochs, asked.first, asked.logs)
    print(json.dumps(found, indent=1))
    counts = (found["lost"], found["duplicated"], *found["runs"].values(), len(found["odd"]))
    raise SystemExit(any(counts) or not found["weights_equal"])


if __name__ == "__main__":
    main()
