"""Trained models on their way out: `studies.calibrate` and `studies.export`."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from oat.adversaries import EvaluationAttack, Pgd, Transfer
from oat.operating import OperatingPoint, lams_of
from studies.comparison.choosing import LEAST_IMAGES
from studies.deploying.calibrating import (
    Calibration,
    choose,
    confirm,
    confirmed_by,
)
from studies.deploying.constraints import Constraints
from studies.deploying.exporting import Exported, check_target, export_to
from studies.deploying.judged import points_at, points_of
from studies.deploying.loading import Wanted, data_of, open_trained
from studies.deploying.model import TrainedModel
from studies.driver.places import study_folder, tracking_place
from studies.errors import ModelError
from studies.known_methods import method_of
from studies.planning.expand import make_plan
from studies.planning.plan import Plan, PlannedTrial
from studies.results.reading import study_points
from studies.storage.addresses import DEFAULT_STORAGE
from studies.storage.folder import Folder
from studies.study_file.loading import Source, load_study
from studies.study_file.study import Study

if TYPE_CHECKING:
    from studies.tracking.model_registry import Registered


def calibrate(
    study: Source,
    method: str | None = None,
    *,
    lam: float | None = None,
    beta: float | None = None,
    width_mult: float | None = None,
    seed: int | None = None,
    checkpoint: str | None = None,
    min_sa: float | None = None,
    min_ra: float | None = None,
    max_flops: float | None = None,
    max_latency_ms: float | None = None,
    weight_robust: float | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Sequence[str] = (),
) -> Calibration:
    """Choose the λ and width to deploy: on held-out images, and told on test images.

    Args:
        study: The study.
        method: See `load_model`, as are ``lam``, ``beta``, ``width_mult``, ``seed`` and
            ``checkpoint``.
        lam: λ of a dedicated model.
        beta: β of a dedicated model.
        width_mult: Share of the channels of a dedicated model.
        seed: Of the training.
        checkpoint: Which weights.
        min_sa: Least SA on held-out images, a fraction.
        min_ra: Least RA there, a fraction.
        max_flops: Most operations for one image.
        max_latency_ms: Longest median time of one image on this machine's CPU, in milliseconds.
        weight_robust: Weight w of RA in what is wanted most, (1 - w) SA + w RA. None is RA where
            SA alone is bound, SA where RA alone is, and 0.5 otherwise.
        storage: Folder or URI of all studies' results.
        overrides: ``path.to.key=value`` each.

    Returns:
        What was chosen. Where nothing holds all constraints ``met`` is False, and it is the point
        that comes nearest.

    Raises:
        ModelError: There is no such model, a constraint is out of its range, or no image is held
            out.
        StudyError: The study is faulty, or its data cannot be read.
    """
    bounds = Constraints(min_sa, min_ra, max_flops, max_latency_ms, weight_robust)
    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    plan = make_plan(resolved, folder)
    wanted = Wanted(method, lam, beta, width_mult, seed, checkpoint)
    model, trial = open_trained(plan, folder, wanted, torch.device("cpu"))
    dataset = data_of(trial, folder)
    split = dataset.val.head(resolved.evaluate.held_out_images or None)
    if not len(split):
        raise ModelError("The study holds no images out of training to choose λ on.")
    attack = choosing_attack(resolved)
    size = resolved.evaluate.batch_size
    known = _known_points(plan, folder, trial, model, resolved.label_of(attack))
    chosen, every = choose(model, split, attack, bounds, known=known, batch_size=size)
    judges, test = _judges(resolved) or [attack], dataset.test.head(resolved.evaluate.images)
    lams = lams_of(method_of(trial.job["config"]).operating_points(resolved.lams()))
    told = confirm(model, chosen.point, test, judges, lams=lams, batch_size=size)
    sa, ra, images = told
    return Calibration(
        model=f"{model.label} seed {trial.seed}",
        chosen=chosen,
        met=not chosen.short_of,
        candidates=every,
        held_out_images=len(split),
        test_images=images,
        sa=sa,
        ra=ra,
        attacks=tuple(map(resolved.label_of, judges)),
        choosing_attack=resolved.label_of(attack),
        confirmed=confirmed_by(bounds, sa, ra),
        constraints=bounds,
        notes=tuple(_few_images(len(split), len(every))),
    )


def _few_images(images: int, candidates: int) -> Iterator[str]:
    """Say so where the choice among several candidates hangs on few images."""
    if candidates > 1 and images < LEAST_IMAGES:
        yield (
            f"Only {images} images are held out of training: one image is {100 / images:.1f} % of "
            "SA and RA, so other images might choose another point. Rely on what the test images "
            "say of it; a larger `data.val_fraction` holds out more in a new training."
        )


def export(
    study: Source,
    method: str | None = None,
    *,
    to: str,
    at_lam: float | None = None,
    at_width: float | None = None,
    lam: float | None = None,
    beta: float | None = None,
    width_mult: float | None = None,
    seed: int | None = None,
    checkpoint: str | None = None,
    out: str | Path | None = None,
    alias: str | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
) -> "Exported | Registered":
    """Export a trained model: one operating point of it, or the whole knob with λ as an input.

    Args:
        study: The study.
        method: See `load_model`, as are ``lam``, ``beta``, ``width_mult``, ``seed`` and
            ``checkpoint``.
        to: ``safetensors``, ``pt2`` (`torch.export`), ``onnx``, or ``mlflow``: a model of MLflow's
            registry that takes λ and width with each request.
        at_lam: λ of the point; None is the whole knob. In MLflow the default of a request.
        at_width: Share of its channels; None is the widest.
        lam: λ of a dedicated model.
        beta: β of a dedicated model.
        width_mult: Share of the channels of a dedicated model.
        seed: Of the training.
        checkpoint: Which weights.
        out: File to write, with the ending of its format; None is one in this folder, named after
            study, model and point.
        alias: In MLflow, an alias of the new version.
        storage: Folder or URI of all studies' results.
        tracking_uri: MLflow; see `tracking_place`.
        overrides: ``path.to.key=value`` each.

    Returns:
        The file and the record beside it, or the version of the registered model.

    Raises:
        ModelError: There is no such model or point, or the file does not agree with the network.
        StudyError: The study is faulty, or its data cannot be read.
        TrackingError: MLflow does not take it.
    """
    target = check_target(to)
    if target == "mlflow" and out is not None:
        raise ModelError("`out` names a file, and `to: mlflow` writes none; leave one of them out.")
    if target != "mlflow" and alias is not None:
        raise ModelError("`alias` is one of MLflow's registry; it goes with `to: mlflow` alone.")
    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    wanted = Wanted(method, lam, beta, width_mult, seed, checkpoint)
    plan = make_plan(resolved, folder)
    model, trial = open_trained(plan, folder, wanted, torch.device("cpu"))
    held_out = data_of(trial, folder).val
    if target == "mlflow":
        from studies.deploying.serving import serve_by
        from studies.tracking.experiment import Experiment, find_experiment

        uri, _ = tracking_place(storage, tracking_uri, make=False)
        find_experiment(uri, resolved.name)
        experiment = Experiment(uri, resolved.name)
        return serve_by(experiment, model, held_out, lam=at_lam, width=at_width, alias=alias)
    path = _path_of(out, resolved, model, at_lam, at_width, target)
    return export_to(model, target, path, held_out, lam=at_lam, width=at_width, study=resolved.name)


def choosing_attack(study: Study) -> Pgd:
    """Return the attack that judges on held-out images at the radius of training."""
    own = [one for one in study.choosing_attacks() if one.eps == study.attack.eps]
    return own[0] if own else Pgd(eps=study.attack.eps)


def _judges(study: Study) -> list[EvaluationAttack]:
    """Return the attacks that judge on test images: of the radius of training, on the most images.

    `Transfer` is not among them, as it needs the other models.
    """
    own = [
        one
        for one in study.attacks()
        if one.eps == study.attack.eps and not isinstance(one, Transfer)
    ]
    every = [one for one in own if one.images is None]
    most = max((one.images for one in own if one.images is not None), default=None)
    return every or [one for one in own if one.images == most]


def _known_points(
    plan: Plan, folder: Folder, trial: PlannedTrial, model: TrainedModel, attack: str
) -> Callable[[OperatingPoint], tuple[float, float] | None]:
    """Return a look-up of SA and RA of points that storage has on held-out images."""
    table = study_points(plan, folder, "held_out")
    own = points_of(table, trial, model)
    own = own[own["attack"] == attack]

    def look_up(point: OperatingPoint) -> tuple[float, float] | None:
        rows = points_at(own, model, point)
        if len(rows) != 1:
            return None
        return float(rows["sa"].iloc[0]), float(rows["ra"].iloc[0])

    return look_up


def _path_of(
    out: str | Path | None,
    study: Study,
    model: TrainedModel,
    lam: float | None,
    width: float | None,
    target: str,
) -> Path:
    """Return the file to write.

    Raises:
        ModelError: It has another ending, or cannot be written there.
    """
    if out is None:
        seed = f"seed{model.about['config']['seed']}"
        at = [] if lam is None else [f"at-lam{lam:g}"]
        at += [] if width is None else [f"width{width:g}"]
        words = [study.name, *model.label.replace("λ", "lam").replace("β", "beta").split(), seed]
        name = re.sub(r"[^A-Za-z0-9._-]+", "", "-".join([*words, *at]))
        return Path(f"{name}.{target}")
    path = Path(out).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        why = "it is a folder" if path.is_dir() else f"there is no folder '{path.parent}'"
        raise ModelError(f"`out` '{out}' cannot be written: {why}; name a file.")
    if path.suffix != f".{target}":  # `load_model` knows a weights file by it
        raise ModelError(f"`out` '{out}' must end in .{target}, as `to` is {target}.")
    return path
