"""What training and evaluating a trial cost, in forward passes of the plain network."""

import math
from collections.abc import Iterable

from baselines import Checkpoint, Interpolate, Mix, Untrained
from oat.adversaries import EvaluationAttack, Transfer
from oat.masking_attacks import PASSES as MASKING_PASSES
from oat.method import Method
from oat.models.forecast import forward_flops, relative_flops
from oat.price import training_units as units_of_training
from oat.recipe import STATISTICS_BATCHES, TrainConfig, steps_per_epoch
from studies.planning.estimates import rough_seconds_per_unit
from studies.study_file.method_blocks import Entry, Resources
from studies.study_file.study import Study
from studies.trial.shapes import CheckSpec, PointSpec

NOMINAL_DATA: dict[str, tuple[int, int, tuple[int, int, int]]] = {
    "digits": (1_348, 449, (1, 8, 8)),
    "fashion_mnist": (60_000, 10_000, (1, 28, 28)),
    "cifar10": (50_000, 10_000, (3, 32, 32)),
    "svhn": (73_257, 26_032, (3, 32, 32)),
    "stl10": (5_000, 8_000, (3, 96, 96)),
}
"""Official training images, test images and their shape: planning does not read the data."""
UNKNOWN_DATA = (10_000, 2_000)
"""Training and test images that are assumed of a folder of images."""


def _nominal_data(study: Study) -> tuple[int, int, tuple[int, int, int]]:
    """Return the numbers and the shape of the images as far as the study tells."""
    side = study.data.image_size or 32
    train, test, shape = NOMINAL_DATA.get(study.data.name, (*UNKNOWN_DATA, (3, side, side)))
    left = train - _nominal_held_out(study)
    return study.data.train_images or left, min(study.evaluate.images or test, test), shape


def _nominal_held_out(study: Study) -> int:
    """Return how many images are held out of the training images."""
    train = NOMINAL_DATA.get(study.data.name, UNKNOWN_DATA)[0]
    return max(1, round(study.data.val_fraction * train))


def test_images(study: Study) -> int:
    """Return how many test images decide: the most under an attack at the radius of training.

    Or at the largest radius, where none is at that.
    """
    test, attacks = _nominal_data(study)[1], study.attacks()
    radii = {attack.radius() for attack in attacks}
    eps = study.attack.eps if study.attack.eps in radii else max(radii)
    return max(min(test, a.images or test) for a in attacks if a.radius() == eps)


def images_are_known(study: Study) -> bool:
    """Tell whether `test_images` is of data that are known without reading them."""
    return study.data.name in NOMINAL_DATA


def training_units(study: Study) -> float:
    """Return the units of work of the dearest training of a study; see `PlannedTrial`."""
    return max(units_of_entry(study, entry) for entry in study.entries())


def units_of_entry(study: Study, entry: Entry) -> float:
    """Estimate the cost of one training from the study alone."""
    images, _, shape = _nominal_data(study)
    method, model = entry.method, study.model
    return units_of_training(method, study.attack, entry.train, model, shape, images)


class Judging:
    """What judging costs, in forward passes of the plain network; estimated from a study alone."""

    def __init__(self, study: Study) -> None:
        self._study = study
        every: list[EvaluationAttack] = [*study.choosing_attacks(), *study.attacks()]
        self._attacks = {study.label_of(attack): attack for attack in every}
        _, self._images, self._shape = _nominal_data(study)

    def units(
        self,
        method: Method,
        points: Iterable[PointSpec],
        checks: Iterable[CheckSpec],
    ) -> float:
        """Return the cost of so many points and checks of one trial.

        Args:
            method: What the trial trains.
            points: On test images and on held-out ones.
            checks: For masked gradients.
        """
        units, rules = 0.0, set()
        for point in points:
            attack = self._attacks[point["attack_label"]]
            # images are crafted on its own network at other λ as well, or on those of others
            crafted = 1 + len(point.get("other_lams", ()))
            if isinstance(attack, Transfer):
                crafted = max(1, len(point.get("sources", ())))
            passes = 1 + attack.passes() * crafted
            units += self._images_of(point) * passes * self._running(method, point)
            rules.add(point["checkpoint_rule"])
        for check in checks:
            units += self._images_of(check) * MASKING_PASSES * self._running(method, check)
            rules.add(check["checkpoint_rule"])
        return units + len(rules) * _settling_units(self._study, method)

    def _images_of(self, what: PointSpec | CheckSpec) -> int:
        held_out = what.get("split", "test") == "val"
        there = _nominal_held_out(self._study) if held_out else self._images
        return min(there, what["images"] or there)

    def _running(self, method: Method, what: PointSpec | CheckSpec) -> float:
        """Return the operations of a pass at an operating point over those of the plain network."""
        width = method.conditioning().base_width * what["width_mult"]
        share = relative_flops(self._study.model, width, self._shape)
        if isinstance(method, Checkpoint):
            own, plain = (
                forward_flops(one, self._shape, 10) for one in (method.network(), self._study.model)
            )
            share *= own / plain
        return share * (2 if isinstance(method, Mix) and what["lam"] not in (0, 1) else 1)


def _settling_units(study: Study, method: Method) -> float:
    """Return the cost of the statistics of networks between two others, if it has such."""
    if not isinstance(method, Interpolate):
        return 0.0
    images, _, shape = _nominal_data(study)
    between = sum(point.lam not in (0, 1) for point in method.operating_points(study.lams()))
    steps = min(STATISTICS_BATCHES, steps_per_epoch(images, study.train.batch_size))
    clean_and_attacked = 2 + 2 * study.attack.steps
    width = relative_flops(study.model, method.width_mult, shape)
    seen = steps * min(study.train.batch_size, images)
    return between * seen * clean_and_attacked * width


def validation_units(study: Study, entry: Entry) -> float:
    """Estimate the cost of all validations of a training, if no image is broken."""
    method, train = entry.method, entry.train
    if isinstance(method, Untrained):
        return 0.0
    base, shape = method.conditioning().base_width, _nominal_data(study)[2]
    points = method.operating_points(method.conditioning().lambda_choices)
    each = sum(relative_flops(study.model, base * p.width_mult, shape) for p in points)
    images = min(train.val_images, _nominal_held_out(study))
    return validations(train) * each * images * (1 + 2 * study.attack.steps)


def validations(train: TrainConfig) -> int:
    """Count the validations of a training: the last epoch is always validated."""
    return math.ceil(train.epochs / train.val_every)


def assumed_seconds_per_unit(study: Study, need: Resources) -> float:
    """Return the seconds of a forward pass of the plain network at an assumed speed."""
    images, _, shape = _nominal_data(study)
    batch_size = min(study.train.batch_size, images)
    return rough_seconds_per_unit(study.model, shape, batch_size, need)
