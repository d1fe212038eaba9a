"""The judging half of a trial: its operating points under each attack, checked for masking."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TypeVar, cast

from oat.ascent import LogitsFn
from oat.data import Dataset
from oat.deploy import fold
from oat.evaluation import Judged, evaluate_at
from oat.execution import numerics
from oat.masking import check_masking
from oat.models import (
    Network,
    Pair,
    in_situ_cost,
)
from oat.operating import OperatingPoint
from oat.own_attack import attack_class
from studies.known_methods import method_of, variant_of
from studies.storage.folder import Folder
from studies.storage.opening import open_folder
from studies.storage.sealed import digest
from studies.trial.choosing import precision_of
from studies.trial.evaluated import MaskingCheck, PlaceColumns, Point, SplitColumn
from studies.trial.prices import price_of
from studies.trial.rebuilding import rebuild
from studies.trial.records import (
    JudgingProgress,
    read_checks,
    read_points,
    read_result,
    write_checks,
    write_points,
)
from studies.trial.same_data import check_same, recorded
from studies.trial.shapes import CheckSpec, PointSpec, TrialJob, TrialReport
from studies.trial.stored import Trained
from studies.trial.weights import read_weights

Report = Callable[[TrialReport], None]
Spec = PointSpec | CheckSpec
"""A point or a check to make, as `studies.planning.expand` lists them in a job."""
Made = TypeVar("Made", Point, MaskingCheck)


def _exact(spec: Spec) -> AbstractContextManager[None]:
    """Judge in float32 and in a fixed order of additions, unless TF32 is asked for."""
    return numerics(tf32=spec.get("tf32", False), deterministic=True)


def judge(
    job: TrialJob, dataset: Dataset, trained: Trained, folder: Folder, report: Report
) -> None:
    """Judge what the folder lacks; write each point and each check as it is finished.

    A point that needs other trials' networks is left for a later call if they are not there yet.

    Args:
        job: See `studies.trial.run.run_trial`.
        dataset: Its data, on the device to judge on.
        trained: What the training left in its record.
        folder: The trial's folder.
        report: Called after each point with a flat record.
    """
    _Judging(job, dataset, trained, folder, report).run()


class _Judging:
    def __init__(
        self,
        job: TrialJob,
        dataset: Dataset,
        trained: Trained,
        folder: Folder,
        report: Report,
    ) -> None:
        self.job, self.dataset, self.trained = job, dataset, trained
        self.folder, self.report = folder, report
        self.method = method_of(job["config"])
        self.rows, self.correct = read_points(folder, trained["training_id"])
        self.checks = read_checks(folder, trained["training_id"])
        self._points = [*job["points"], *job["held_out"]]

    def run(self) -> None:
        have = {row["point_key"] for row in self.rows}
        have |= {check["check_key"] for check in self.checks}
        points = [p for p in self._points if p["point_key"] not in have]
        checks = [c for c in self.job["checks"] if c["check_key"] not in have]
        # in the order of the job, also where a kill has left the later half of a rule
        for rule in dict.fromkeys(spec["checkpoint_rule"] for spec in self._points):
            if all(spec["checkpoint_rule"] != rule for spec in (*points, *checks)):
                continue
            weights = read_weights(self.folder, self.trained, rule)
            model = rebuild(self.job["config"], self.method, self.dataset, weights)
            for point in points:
                if point["checkpoint_rule"] == rule:
                    self._point(point, model)
            for check in checks:
                if check["checkpoint_rule"] == rule:
                    self._check(check, model)
        for name in self.folder.names():
            if name.startswith(JudgingProgress.PREFIX):  # a kill came between point and removal
                self.folder.remove(name)

    def _sha256(self, spec: Spec) -> str:
        return str(self.trained["weights"][spec["checkpoint_rule"]]["sha256"])

    def _twin(self, spec: Spec, made: Sequence[Made]) -> Made | None:
        """Find what was made of the same weights by the same settings: the same numbers."""
        listed: list[Spec] = [*self._points, *self.job["checks"]]
        keys = {self._key(s): s for s in listed}
        wanted = self._judgement(spec)
        for other in made:
            known = keys.get(self._key(other))
            if known is not None and self._judgement(known) == wanted:
                return other
        return None

    @staticmethod
    def _key(spec: Mapping[str, object]) -> str:
        return str(spec["point_key"] if "point_key" in spec else spec["check_key"])

    def _judgement(self, spec: Spec) -> str:
        own = {"point_key", "check_key", "checkpoint_rule"}
        if "sources" in spec:  # the rule says which of their weights as well
            own.remove("checkpoint_rule")
        what = {key: value for key, value in spec.items() if key not in own}
        return digest({**what, "weights": self._sha256(spec)})

    def _point(self, point: PointSpec, model: Network | Pair) -> None:
        key, rule = point["point_key"], point["checkpoint_rule"]
        twin = self._twin(point, self.rows)
        if twin is None:
            surrogates = self._surrogates(point, model)
            if surrogates is None:
                return
            progress = JudgingProgress(self.folder, key, self._judgement(point))
            attack = attack_class(point["attack"]["name"])(**point["attack"])
            with _exact(point):
                found = evaluate_at(
                    model,
                    OperatingPoint(point["lam"], point["width_mult"]),
                    getattr(self.dataset, point.get("split", "test")).head(point["images"]),
                    attack,
                    batch_size=point["batch_size"],
                    surrogates=surrogates,
                    progress=progress,
                )
            row = self._row(point, model, found)
            clean, robust = found.correctness.clean.numpy(), found.correctness.robust.numpy()
        else:
            progress = None
            row = {**twin, "point_key": key, "checkpoint_rule": rule}
            row["checkpoint_epoch"] = self.trained["weights"][rule]["epoch"]
            clean, robust = (self.correct[f"{twin['point_key']}.{k}"] for k in ("clean", "robust"))
        self.rows.append(row)
        self.correct |= {f"{key}.clean": clean, f"{key}.robust": robust}
        write_points(self.folder, self.rows, self.correct)
        if progress is not None:
            self.folder.remove(progress.name)
        self.report({"kind": "point", "sa": row["sa"], "ra": row["ra"]})

    def _check(self, check: CheckSpec, model: Network | Pair) -> None:
        key, rule = check["check_key"], check["checkpoint_rule"]
        twin = self._twin(check, self.checks)
        if twin is None:
            with _exact(check):
                found = check_masking(
                    fold(model, check["lam"], check["width_mult"]),
                    self.dataset.test.head(check["images"]),
                    check["eps"],
                    batch_size=check["batch_size"],
                )
            made = {
                "training_id": self.trained["training_id"],
                "check_key": key,
                "checkpoint_rule": rule,
                **self._place(check),
                **asdict(found),
            }
            self.checks.append(cast(MaskingCheck, made))
        else:
            self.checks.append({**twin, "check_key": key, "checkpoint_rule": rule})
        write_checks(self.folder, self.checks)

    def _surrogates(self, point: PointSpec, model: Network | Pair) -> list[LogitsFn] | None:
        """Return the networks that images are crafted on besides; None if they are not there."""
        if "other_lams" in point:
            return [fold(model, lam, point["width_mult"]) for lam in point["other_lams"]]
        if "sources" not in point:
            return []
        siblings = open_folder(self.job["siblings"])
        found = [(key, read_result(siblings.sub(key))) for key in point["sources"]]
        if any(result is None for _, result in found):
            return None
        # a training that diverged will never be there: images come from the others
        sources = [
            self._source(siblings, key, result["trained"], point["checkpoint_rule"])
            for key, result in found
            if result is not None and result["status"] == "done"
        ]
        return sources or None

    def _source(self, siblings: Folder, key: str, trained: Trained, rule: str) -> LogitsFn:
        """Return another trial's deployed network.

        Raises:
            DataError: It was trained on other data.
        """
        folder = siblings.sub(key)
        check_same(f"Trial {key}", recorded(folder, trained), self.dataset.fingerprint)
        config = json.loads(folder.read("config.json"))
        weights = read_weights(folder, trained, rule)
        return fold(rebuild(config, method_of(config), self.dataset, weights), None)

    def _row(self, point: PointSpec, model: Network | Pair, found: Judged) -> Point:
        """Make the flat row of one point; see `Point`."""
        config, attack, method = self.job["config"], found.attack, self.method
        trained, dataset = self.trained, self.dataset
        split: SplitColumn = {"split": point["split"]} if "split" in point else {}
        price = price_of(config, trained, len(dataset.train))
        in_situ = in_situ_cost(model, dataset.image_shape, point["width_mult"])
        return {
            "point_key": point["point_key"],
            "run_key": self.job["run_key"],
            "training_id": trained["training_id"],
            "method": method.name,
            "variant": variant_of(config),
            **self._place(point),
            "seed": config["seed"],
            **split,
            "attack": point["attack_label"],
            "attack_settings": point["attack_settings"],
            "eps": attack.radius(),
            "step_size": attack.step(),
            "sa": found.correctness.sa,
            "ra": found.correctness.ra,
            "images": len(found.correctness.clean),
            "warnings": " ".join(found.correctness.warnings),
            "dataset": config["data"]["name"],
            "data_fingerprint": dataset.fingerprint,
            "model": config["model"]["name"],
            "epochs": config["train"]["epochs"],
            "precision": precision_of(trained, config["train"]),
            "budget": self.job["budget"],
            "checkpoint_rule": point["checkpoint_rule"],
            "checkpoint_epoch": trained["weights"][point["checkpoint_rule"]]["epoch"],
            "results_version": config["results_version"],
            "flops": found.flops,
            "deployed_bytes": found.deployed_bytes,
            "in_situ_flops": in_situ.flops,
            "in_situ_parameters": in_situ.parameters,
            "network_bytes": trained["network_bytes"],
            "parameters": trained["parameters"],
            "train_device_seconds": price["device_seconds"],
            "train_units": price["train_units"],
            "train_gradients": price["train_gradients"],
        }

    def _place(self, spec: Spec) -> PlaceColumns:
        """Return where a point or check lies: a dedicated method has its value in its config."""
        lam = spec["lam"]
        return {
            "lam": lam if lam is not None else getattr(self.method, "lam", None),
            "beta": getattr(self.method, "beta", None),
            "width_mult": self.method.conditioning().base_width * spec["width_mult"],
        }
