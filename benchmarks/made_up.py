"""A study of any size, and a storage folder in which it is finished without a training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oat.masking import Checks
from oat.method import Method
from studies.known_methods import RESULTS_VERSION, method_of, variant
from studies.planning.expand import make_plan
from studies.planning.plan import PlannedTrial
from studies.results.points import COLUMNS, DERIVED
from studies.storage.folder import Folder
from studies.storage.sealed import write_sealed
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.trial.records import write_checks, write_points

LAMS = [i / 10 for i in range(11)]
OPTIONS: dict[str, list[Any]] = {
    "encoding": ["random", "onehot", "dct", "continuous", "none"],
    "dual_bn": [True, False],
    "film_init": ["identity", "paper"],
    "skip_clean_at_one": [False, True],
}
"""Options of OAT; their combinations are its 40 variants."""

LARGEST_BETA = 10
WEIGHTS = b"none"


@dataclass(frozen=True)
class Size:
    """How large a study is: of 10,000 trials and 60,000 points, unless told otherwise.

    Attributes:
        seeds: Seeds; each trains every setting.
        variants: Variants of OAT, each judged at 11 λ; at most 40.
        values: λ of PGD-AT, and as many β of TRADES.
        images: Test images of each point.
    """

    seeds: int = 25
    variants: int = 40
    values: int = 180
    images: int = 1000

    def study(self) -> Study:
        """Return the study: a training is one epoch on 64 digits, a judgement three attacks."""
        options = [dict(zip(OPTIONS, some, strict=True)) for some in product(*OPTIONS.values())]
        shares = [(i + 1) / self.values for i in range(self.values)]
        return load_study(
            {
                "name": "scale",
                "data": {"name": "digits", "train_images": 64},
                "model": {"name": "resnet8", "width": 4},
                "train": {"epochs": 1, "batch_size": 32, "val_images": 8},
                "attack": {"eps": 0.1, "steps": 1},
                "seeds": list(range(self.seeds)),
                "methods": [
                    *(
                        {"name": "oat", "lambda_choices": LAMS, **some}
                        for some in options[: self.variants]
                    ),
                    {"name": "pgd_at", "lam": shares},
                    {"name": "trades", "beta": [LARGEST_BETA * share for share in shares]},
                ],
                "evaluate": {
                    "attacks": [{"name": "pgd", "steps": steps} for steps in (1, 2, 4)],
                    "images": self.images,
                    "masking_images": 4,
                    "held_out_images": 0,
                },
            }
        )


def make_up(study: Study, folder: Folder) -> None:
    """Finish every trial of a study with drawn results, in the files that a trial leaves.

    A model is right where its skill is above an image's difficulty, give or take: so models agree
    on most images, as trained ones do.
    """
    assert study.evaluate.images is not None
    difficulty = np.random.default_rng(0).random(study.evaluate.images)
    for i, trial in enumerate(make_plan(study, folder).trials):
        rng = np.random.default_rng([1, i])
        luck, method = rng.normal(0, 0.01), method_of(trial.job["config"])
        rows: list[dict[str, Any]] = []
        correct: dict[str, NDArray[np.bool_]] = {}
        for point in trial.job["points"]:
            sa, ra = _skills(method, point)
            seen = difficulty + rng.normal(0, 0.05, len(difficulty)) - luck
            clean = seen < sa
            robust = clean & (seen < ra - 0.01 * point["attack"]["steps"])
            key = point["point_key"]
            correct |= {f"{key}.clean": clean, f"{key}.robust": robust}
            rows.append(_row(trial, method, point, clean, robust))
        checks = [_check(trial, method, check) for check in trial.job["checks"]]
        _write(trial, folder.sub(f"trials/{trial.run_key}"), rows, correct, checks)


def _write(
    trial: PlannedTrial,
    place: Folder,
    rows: list[dict[str, Any]],
    correct: Mapping[str, NDArray[np.bool_]],
    checks: list[dict[str, Any]],
) -> None:
    write_points(place, rows, correct)
    write_checks(place, checks)
    place.write("model.safetensors", WEIGHTS)
    trained = {
        "training_id": _training_id(trial),
        "weights": {"last": {"epoch": 1, "sha256": "", "bytes": len(WEIGHTS)}},
        "device_seconds": trial.units / 1000,
        "train_units": trial.units,
        "parameters": 5000,
        "network_bytes": 20000,
    }
    write_sealed(
        place, "result.json", {"run_key": trial.run_key, "status": "done", "trained": trained}
    )


def _training_id(trial: PlannedTrial) -> str:
    return f"training of {trial.run_key}"


def _place(method: Method, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a point or check lies: a dedicated method has its value in its config."""
    lam = spec["lam"]
    return {
        "lam": lam if lam is not None else getattr(method, "lam", None),
        "beta": getattr(method, "beta", None),
        "width_mult": spec["width_mult"],
    }


def _skills(method: Method, spec: Mapping[str, Any]) -> tuple[float, float]:
    """Return the expected SA and RA: λ, or a share of the largest β, trades one for the other."""
    place = _place(method, spec)
    share = place["beta"] / LARGEST_BETA if place["lam"] is None else place["lam"]
    return 0.95 - 0.15 * share, 0.2 + 0.4 * share**0.5


def _row(
    trial: PlannedTrial,
    method: Method,
    point: Mapping[str, Any],
    clean: NDArray[np.bool_],
    robust: NDArray[np.bool_],
) -> dict[str, Any]:
    """Return the row of a point, with every column that is stored."""
    config = trial.job["config"]
    stored = {name: kind for name, kind in COLUMNS.items() if name not in DERIVED}
    return {
        **{name: "" if kind == "str" else 0 for name, kind in stored.items()},
        "point_key": point["point_key"],
        "run_key": trial.run_key,
        "training_id": _training_id(trial),
        "method": method.name,
        "variant": variant(method),
        **_place(method, point),
        "seed": trial.seed,
        "attack": point["attack_label"],
        "attack_settings": point["attack_settings"],
        "eps": point["attack"]["eps"],
        "sa": float(clean.mean()),
        "ra": float(robust.mean()),
        "images": len(clean),
        "dataset": config["data"]["name"],
        "model": config["model"]["name"],
        "budget": trial.job["budget"],
        "checkpoint_rule": point["checkpoint_rule"],
        "results_version": RESULTS_VERSION,
        "train_device_seconds": trial.units / 1000,
        "train_units": trial.units,
    }


def _check(trial: PlannedTrial, method: Method, check: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a check that finds nothing."""
    sa, ra = _skills(method, check)
    numbers = Checks(
        images=check["images"],
        sa=sa,
        ra=ra,
        ra_restarts=ra,
        ra_strong=ra,
        ra_noise=sa,
        ra_eps_0=sa,
        ra_eps_2x=ra / 2,
        ra_eps_4x=0.0,
        ra_eps_half=0.0,
        zero_gradients=0.0,
    )
    return {
        "training_id": _training_id(trial),
        "check_key": check["check_key"],
        "checkpoint_rule": check["checkpoint_rule"],
        **_place(method, check),
        **asdict(numbers),
    }
