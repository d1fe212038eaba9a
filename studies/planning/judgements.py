"""What a trial is evaluated on: its operating points under each attack, its checks, their keys."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, cast

from baselines import Checkpoint
from oat.adversaries import EVALUATION_SEED, EvaluationAttack, Pgd, Transfer
from oat.lambdas import SAME_LAM
from oat.masking_attacks import HOW as MASKING_HOW
from oat.method import Method
from oat.operating import lams_of
from studies.known_methods import is_dedicated
from studies.planning.plan import Split
from studies.planning.run_keys import entry_key
from studies.storage.sealed import digest
from studies.study_file.method_blocks import Entry
from studies.study_file.study import Study
from studies.trial.shapes import CheckSpec, PointSpec


def points_of(
    study: Study, method: Method, own: Sequence[str], seed: int, keys: "SharedKeys", split: Split
) -> list[PointSpec]:
    """List the operating points to judge, each with a key over all that decides its numbers.

    Args:
        study: The study.
        method: What the trial trains.
        own: Run key of the trial; of a pair also those of its two ends.
        seed: Of the trial.
        keys: What the points of a study share.
        split: Which images.
    """
    attacks, images = study.attacks(), study.evaluate.images
    return _points(study, method, own, seed, keys, split, attacks, images)


def held_out_of(
    study: Study, method: Method, own: Sequence[str], seed: int, keys: "SharedKeys"
) -> list[PointSpec]:
    """List the operating points to judge on held-out images: a comparison chooses λ by them.

    By one PGD at each radius of the study: see `studies.study_file.study.Study.choosing_attacks`.
    """
    images = study.evaluate.held_out_images
    if not images:
        return []
    attacks = study.choosing_attacks()
    return _points(study, method, own, seed, keys, "val", attacks, images)


def _points(
    study: Study,
    method: Method,
    own: Sequence[str],
    seed: int,
    keys: "SharedKeys",
    split: Split,
    attacks: Sequence[EvaluationAttack],
    images: int | None,
) -> list[PointSpec]:
    points = []
    # a network from outside has no seed: it is attacked from the models of the study's first
    others = keys.dedicated(study.seeds[0] if isinstance(method, Checkpoint) else seed)
    places = method.operating_points(study.lams())
    lams = lams_of(places)
    for rule in study.evaluate.checkpoints:
        for lam, width_mult in places:
            for attack in attacks:
                settings = _attack_settings(attack)
                what = {
                    "checkpoint_rule": rule,
                    "lam": lam,
                    "width_mult": width_mult,
                    "attack": settings,
                    "images": _fewest(attack.images, images),
                    "batch_size": study.evaluate.batch_size,
                    **_surrogates(lams, attack, lam, own, others),
                    **({} if split == "test" else {"split": split}),
                    **_tf32(study),
                }
                key = digest({"run_key": own[0], "seed": EVALUATION_SEED, **what})
                point = {
                    "point_key": key,
                    "attack_label": study.label_of(attack),
                    "attack_settings": keys.settings(attack),
                    **what,
                }
                points.append(cast(PointSpec, point))
    return points


def _tf32(study: Study) -> dict[str, bool]:
    """Return the entry of a judgement in TF32; none without, so that older keys stand."""
    return {"tf32": True} if study.evaluate.tf32 else {}


def count_points(study: Study) -> int:
    """Count the points that all trials of a study are to be judged at."""
    places = sum(len(e.method.operating_points(study.lams())) for _, e in study.trials())
    each = len(study.evaluate.checkpoints) * len(study.attacks())
    return places * each


def _attack_settings(attack: EvaluationAttack) -> dict[str, Any]:
    """Return what decides an attack; of its options those at their default are left out.

    So an option that a later release adds changes no key. Steps and step size are older than
    this rule and always there, and so is the digest of code of the user's.
    """
    always = {"name", "eps", "steps", "step_size", "code"}
    return {
        field.name: getattr(attack, field.name)
        for field in fields(attack)
        if field.name != "images"
        and (field.name in always or getattr(attack, field.name) != field.default)
    }


def _shared_settings(study: Study, attack: EvaluationAttack) -> dict[str, Any]:
    """Return what points under one attack must share to be compared."""
    shared = {
        "seed": EVALUATION_SEED,
        "batch": study.evaluate.batch_size,
        **_attack_settings(attack),
        **_tf32(study),
    }
    if isinstance(attack, Pgd) and attack.every_lam:
        shared["lams"] = study.lams()
    if isinstance(attack, Transfer):
        # those of another seed are other trainings of the same settings
        keys = (entry_key(study, entry, None) for entry in _dedicated(study))
        shared["sources"] = sorted(map(digest, keys))
    return shared


def _dedicated(study: Study) -> list[Entry]:
    return [entry for entry in study.entries() if is_dedicated(entry.method.name)]


def _fewest(*counts: int | None) -> int | None:
    return min((count for count in counts if count is not None), default=None)


class SharedKeys:
    """Keys that many trials share, each made once.

    Made anew for every trial, those of transfer would take the square of the trials' number.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._settings: dict[EvaluationAttack, str] = {}
        self._dedicated: dict[int, tuple[str, ...]] = {}

    def settings(self, attack: EvaluationAttack) -> str:
        """Return the digest of what points under an attack must share to be compared."""
        if attack not in self._settings:
            self._settings[attack] = digest(_shared_settings(self._study, attack))
        return self._settings[attack]

    def dedicated(self, seed: int) -> tuple[str, ...]:
        """Return the run keys of the dedicated models of a seed; none without `Transfer`."""
        if not any(isinstance(attack, Transfer) for attack in self._study.attacks()):
            return ()
        if seed not in self._dedicated:
            self._dedicated[seed] = tuple(
                digest(entry_key(self._study, entry, seed)) for entry in _dedicated(self._study)
            )
        return self._dedicated[seed]


def _surrogates(
    lams: Sequence[float],
    attack: EvaluationAttack,
    lam: float | None,
    own: Sequence[str],
    dedicated: Sequence[str],
) -> dict[str, Any]:
    """Name what else images are crafted on: the same network at other λ, or other trials.

    Of a pair those are its other α. The ends of a pair are no others: images that are crafted on
    them would be a white box's.
    """
    if isinstance(attack, Pgd) and attack.every_lam and lam is not None:
        return {"other_lams": [other for other in lams if abs(other - lam) >= SAME_LAM]}
    if isinstance(attack, Transfer):
        return {"sources": sorted(key for key in dedicated if key not in own)}
    return {}


def checks_of(study: Study, method: Method, run_key: str) -> list[CheckSpec]:
    """List the operating points to check for masked gradients, each with a key."""
    if not study.evaluate.masking_images:
        return []
    checks = []
    for rule in study.evaluate.checkpoints:
        for lam, width_mult in method.operating_points(study.lams()):
            what = {
                "checkpoint_rule": rule,
                "lam": lam,
                "width_mult": width_mult,
                "eps": study.attack.eps,
                "images": _fewest(study.evaluate.masking_images, study.evaluate.images),
                "batch_size": study.evaluate.batch_size,
                **_tf32(study),
            }
            decides = {"seed": EVALUATION_SEED, "how": MASKING_HOW, "check": what}
            key = digest({"run_key": run_key, **decides})
            checks.append(cast(CheckSpec, {"check_key": key, **what}))
    return checks
