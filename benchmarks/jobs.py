"""Run trials of a study on a machine that has torch and numpy, and none of Ray, MLflow, pydantic.

    python -m benchmarks.jobs list jobs.json cifar10-h100 seeds=[0]   # with all packages
    python -m benchmarks.jobs run jobs.json STORAGE --data FOLDER     # there
    oat run cifar10-h100 --storage STORAGE                            # goes on from what is there

Trials run one after another, in the order of the study or of ``--only``, and what they have done
stands in STORAGE as `oat run` would have left it. Weights are large: all but them is packed into
``--pack`` after each trial. What a trial without its weights lacks cannot be made later.
"""

import argparse
import json
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from oat.data import DataConfig, load

WEIGHTS = ("model", "checkpoint")
"""How the names of files begin that hold weights."""
Report = dict[str, Any]


def listed(study: str, overrides: Sequence[str]) -> Report:
    """Return the jobs of a study, by the names that people see."""
    from studies.planning.expand import make_plan
    from studies.storage.opening import open_folder
    from studies.study_file.loading import load_study

    loaded = load_study(study, overrides)
    plan = make_plan(loaded, open_folder("storage").sub(loaded.name))
    jobs = {f"{trial.label} seed {trial.seed}": trial.job for trial in plan.trials}
    return {"study": loaded.name, "jobs": jobs}


def placed(job: Report, storage: Path, data: Path) -> Report:
    """Return a job with the folders of this machine, and its GPU if it has one."""
    return {
        **job,
        "siblings": str(storage / "trials"),
        "choices": str(storage / "choices"),
        "data": {**job["data"], "root": str(data.resolve())},
        "resources": {**job["resources"], "gpu": float(torch.cuda.is_available())},
    }


def without_weights(storage: Path) -> Iterator[Path]:
    """Yield the files of a storage folder that are not weights."""
    for path in sorted(storage.rglob("*")):
        if path.is_file() and not path.name.startswith(WEIGHTS):
            yield path


def pack(storage: Path, archive: Path) -> None:
    """Pack all but the weights."""
    with tarfile.open(archive, "w:gz") as packed:
        for path in without_weights(storage):
            packed.add(path, path.relative_to(storage.parent))


def run(asked: argparse.Namespace) -> int:
    """Run the jobs; return 1 if one failed."""
    from studies.storage.opening import open_folder
    from studies.trial.run import run_trial

    content = json.loads(asked.jobs.read_text())
    storage = asked.storage.resolve() / content["study"]
    jobs = {k: placed(j, storage, asked.data) for k, j in content["jobs"].items()}
    chosen = asked.only.split(";") if asked.only else list(jobs)
    first = jobs[chosen[0]]
    load(DataConfig(**first["config"]["data"], **first["data"]))  # later ones find it in memory
    print("data are read", flush=True)
    while asked.wait is not None and not asked.wait.exists():
        time.sleep(0.1)
    failed = 0
    for name in chosen:
        job, began = jobs[name], time.perf_counter()

        def said(record: Any, name: str = name, began: float = began) -> None:
            shown = {k: v for k, v in record.items() if v is not None}
            print(f"{time.perf_counter() - began:6.1f} s {name}: {json.dumps(shown)}", flush=True)

        folder = open_folder(str(storage / "trials" / job["run_key"]))
        outcome = run_trial(job, folder, said)
        failed += outcome["status"] == "failed"
        said({k: v for k, v in outcome.items() if k != "traceback"})
        if asked.pack is not None:
            pack(storage, asked.pack)
    return int(failed > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("list", help="write the jobs of a study to a file")
    making.add_argument("jobs", type=Path)
    making.add_argument("study")
    making.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    running = verbs.add_parser("run", help="run them")
    running.add_argument("jobs", type=Path)
    running.add_argument("storage", type=Path)
    running.add_argument("--data", type=Path, required=True, help="folder of the data")
    running.add_argument("--only", help="names of trials, with ; between")
    running.add_argument("--pack", type=Path, help="archive to write, .tar.gz")
    running.add_argument("--wait", type=Path, help="begin when this file is there")
    asked = parser.parse_args(argv)
    if asked.verb == "run":
        return run(asked)
    content = listed(asked.study, asked.overrides)
    asked.jobs.write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(content["jobs"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
