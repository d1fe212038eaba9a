"""What do checkpoints, records, progress and MLflow add to a training?

One trial of a study is trained as a worker trains it, while MLflow follows as the driver lets it
follow, here in one process. The time between epochs is what checkpoints, records and reports cost
the training; MLflow's thread is counted in CPU seconds, as on a cluster it is another process's.

    python -m benchmarks.overhead --json overhead.json
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import timing
from benchmarks.timing import Report
from oat.training import Training
from studies.planning.expand import make_plan
from studies.storage.opening import open_folder
from studies.study_file.loading import load_study
from studies.tracking.background import BackgroundSync
from studies.tracking.tracker import Tracker
from studies.trial.run import run_trial

CASES = {"resnet8": (1_024, 6), "resnet18": (384, 4)}
"""Training images and epochs of each network. A real epoch is longer, so its share is smaller."""


@dataclass
class Clock:
    """Seconds of a training.

    Attributes:
        epochs: In each epoch itself, validation included.
        between: After each epoch, until the next is asked for.
        mlflow: CPU seconds of MLflow's thread.
    """

    epochs: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    mlflow: float = 0.0

    def watch(self, training: Training) -> Iterator[Any]:
        """Pass the epochs of a training on, and time them."""
        epochs = EPOCHS(training)
        while True:
            began = time.perf_counter()
            try:
                record = next(epochs)
            except StopIteration:
                return
            ended = time.perf_counter()
            self.epochs.append(ended - began)
            yield record
            self.between.append(time.perf_counter() - ended)

    def follow(self, tracker: Tracker, *about: Any) -> None:
        """Let MLflow follow, and count its CPU seconds."""
        began = time.thread_time()
        try:
            FOLLOW(tracker, *about)
        finally:
            self.mlflow += time.thread_time() - began


EPOCHS, FOLLOW = Training.epochs, Tracker.follow


def train(network: str, images: int, epochs: int, threads: int) -> Clock:
    """Train OAT once in a folder of its own."""
    study = load_study(
        {
            "name": "overhead",
            "data": {"name": "digits", "train_images": images},
            "model": {"name": network},
            "train": {"epochs": epochs, "batch_size": 32, "val_images": 32, "val_every": 1},
            "methods": [{"name": "oat", "lambda_choices": [0, 0.2, 1]}],
            "evaluate": {"masking_images": 0, "held_out_images": 0},
            "resources": {"cpu": threads},
        }
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        folder = open_folder(place)
        plan = make_plan(study, folder)
        (trial,) = plan.trials
        tracker = Tracker(f"sqlite:///{place}/mlflow.db", "overhead", Path(place).as_uri())
        tracker.load()
        follower = BackgroundSync(tracker, plan, folder)
        follower.start()
        with (
            patch.object(Training, "epochs", lambda training: clock.watch(training)),
            patch.object(Tracker, "follow", lambda *about: clock.follow(*about)),
        ):
            run_trial(
                {**trial.job, "points": []},
                folder.sub(f"trials/{trial.run_key}"),
                lambda _: follower.changed(trial.run_key),
            )
            follower.close()
    return clock


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = timing.parser(__doc__, rounds=5)
    asked: argparse.Namespace = parser.parse_args(argv)
    report: Report = {**timing.start(asked, __doc__), "cases": []}
    cases = {"resnet8": (64, 2)} if asked.small else CASES
    for network, (images, epochs) in cases.items():
        clocks = [train(network, images, epochs, asked.threads) for _ in range(asked.rounds)]
        case = {
            "network": network,
            "epochs": epochs,
            "failed": {},
            "epoch": timing.summary([s for clock in clocks for s in clock.epochs]),
            "between": timing.summary([s for clock in clocks for s in clock.between]),
            "between_share": [
                timing.rounded(sum(clock.between) / sum(clock.epochs)) for clock in clocks
            ],
            "mlflow_share": [timing.rounded(clock.mlflow / sum(clock.epochs)) for clock in clocks],
        }
        report["cases"].append(case)
        timing.write(report, asked.json)
        between, mlflow = (
            100 * sorted(case[key])[len(clocks) // 2] for key in ("between_share", "mlflow_share")
        )
        print(
            f"{network}: an epoch takes {case['epoch']['median_ms'] / 1e3:.2f} s; checkpoints, "
            f"records and reports add {between:.2f} %, MLflow {mlflow:.2f} % in CPU seconds."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
