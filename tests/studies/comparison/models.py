"""What the tests of comparing share."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.comparison.answer import Comparison
from studies.known_methods import ONCE
from studies.results.points import frame
from studies.storage.sealed import digest, seal

Bools = NDArray[np.bool_]

COMMON: dict[str, Any] = {
    "width_mult": 1.0,
    "attack": "pgd20",
    "eps": 0.1,
    "step_size": 0.01,
    "attack_settings": "0123456789a",
    "dataset": "digits",
    "data_fingerprint": "0123456789ab",
    "model": "resnet8",
    "epochs": 1,
    "budget": "abcdef012345",
    "checkpoint_rule": "last",
    "checkpoint_epoch": 1,
    "results_version": 1,
    "flops": 1000,
    "deployed_bytes": 400,
    "in_situ_flops": 1100,
    "in_situ_parameters": 110,
    "network_bytes": 500,
    "parameters": 100,
    "train_units": 10.0,
}


@dataclass(frozen=True)
class Model:
    """A made-up operating point: which of the test images it has right, clean and attacked."""

    method: str
    clean: Bools
    robust: Bools
    lam: float | None = None
    beta: float | None = None
    seed: int = 0
    seconds: float = 1.0
    attack: str = "pgd20"
    width: float = 1.0
    options: str = ""
    rule: str = "last"
    eps: float = 0.1

    @property
    def run(self) -> str:
        """Name the network: the points of OAT and OATS share one."""
        place = None if self.method in ONCE else (self.lam, self.beta, self.width)
        return f"{self.method}{self.options}-{place}-{self.seed}"

    def row(self) -> dict[str, Any]:
        """Return its point as a trial would store it."""
        return {
            **COMMON,
            "point_key": digest(
                [self.run, self.lam, self.beta, self.attack, self.width, self.rule]
            ),
            "run_key": self.run,
            "training_id": f"training of {self.run}",
            "method": self.method,
            "variant": self.method + self.options,
            "width_mult": self.width,
            "checkpoint_rule": self.rule,
            "lam": self.lam,
            "beta": self.beta,
            "seed": self.seed,
            "attack": self.attack,
            "eps": self.eps,
            "sa": float(self.clean.mean()),
            "ra": float(self.robust.mean()),
            "images": len(self.clean),
            "train_device_seconds": self.seconds,
        }


def first_of(right: int, images: int) -> Bools:
    """Have the first so many images right."""
    return np.arange(images) < right


def bare_points(*models: Model) -> pd.DataFrame:
    """Make a frame that knows accuracies alone."""
    return frame(model.row() for model in models)


def stored_points(storage: Path, *models: Model) -> pd.DataFrame:
    """Store the models as trials store their results, and make the frame that points there."""
    for run in {model.run for model in models}:
        place = storage / run
        place.mkdir(parents=True)
        mine = [model for model in models if model.run == run]
        packed = {}
        for model in mine:
            key = model.row()["point_key"]
            packed[f"{key}.clean"] = np.packbits(model.clean)
            packed[f"{key}.robust"] = np.packbits(model.robust)
        buffer = io.BytesIO()
        np.savez(buffer, **packed)
        (place / "correct.npz").write_bytes(buffer.getvalue())
        (place / "points.jsonl").write_text("".join(json.dumps(seal(m.row())) + "\n" for m in mine))
        (place / "model.safetensors").write_bytes(b"weights")
        trained = {
            "training_id": f"training of {run}",
            "weights": {"last": {"bytes": 7}},
            "device_seconds": 1.0,
        }
        (place / "result.json").write_text(json.dumps(seal({"status": "done", "trained": trained})))
    table = bare_points(*models)
    return table.assign(folder=[str(storage / key) for key in table["run_key"]])


def only_of(comparison: Comparison) -> dict[str, Any]:
    (row,) = comparison.table.to_dict("records")
    return {str(key): value for key, value in row.items()}


def pair_of(
    images: int, oat: tuple[int, int], dedicated: tuple[int, int], lam: float = 1.0
) -> tuple[Model, Model]:
    """Return OAT and a dedicated model of the same λ with so many images right, clean, robust."""
    return (
        Model("oat", first_of(oat[0], images), first_of(oat[1], images), lam=lam),
        Model("pgd_at", first_of(dedicated[0], images), first_of(dedicated[1], images), lam=lam),
    )
