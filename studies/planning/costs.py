"""What training and evaluating a trial cost, in forward passes of the plain network."""

import math

from baselines import Interpolate, Mix, Untrained
from oat.adversaries import EvaluationAttack, Pgd, Transfer
from oat.masking_attacks import PASSES as MASKING_PASSES
from oat.method import Method
from oat.models.forecast import relative_flops
from oat.operating import OperatingPoint
from oat.price import training_units as units_of_training
from oat.recipe import STATISTICS_BATCHES, TrainConfig, steps_per_epoch
from studies.known_methods import is_dedicated
from studies.planning.estimates import rough_seconds_per_unit
from studies.study_file.method_blocks import Entry, Resources
from studies.study_file.study import Study

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


def training_units(study: Study) -> float:
    """Return the units of work of the dearest training of a study; see `PlannedTrial`."""
    return max(judging_units(study, entry)[0] for entry in study.entries())


def judging_units(study: Study, entry: Entry) -> tuple[float, float]:
    """Estimate the cost of training and of judging from the study alone."""
    method = entry.method
    images, judged, shape = _nominal_data(study)
    for_a_point = sum(
        min(judged, attack.images or judged) * (1 + attack.passes() * _sources_of(study, attack))
        for attack in study.attacks()
    )
    for_a_point += min(judged, study.evaluate.masking_images) * MASKING_PASSES
    held_out = min(_nominal_held_out(study), study.evaluate.held_out_images)
    for_a_point += held_out * sum(1 + attack.passes() for attack in study.choosing_attacks())
    base = method.conditioning().base_width
    points = sum(
        relative_flops(study.model, base * point.width_mult, shape) * _running(method, point)
        for point in method.operating_points(study.lams())
    )
    rules = len(study.evaluate.checkpoints)
    judging = points * for_a_point + _settling_units(study, method, images)
    training = units_of_training(method, study.attack, entry.train, study.model, shape, images)
    return training, rules * judging


def _sources_of(study: Study, attack: EvaluationAttack) -> int:
    """Return on how many networks an attack crafts its images."""
    if isinstance(attack, Pgd) and attack.every_lam:
        return max(1, len(study.lams()))
    if isinstance(attack, Transfer):
        return max(1, sum(is_dedicated(method.name) for method in study.all_methods()) - 1)
    return 1


def _running(method: Method, point: OperatingPoint) -> int:
    """Return how many networks run at an operating point."""
    return 2 if isinstance(method, Mix) and point.lam not in (0, 1) else 1


def _settling_units(study: Study, method: Method, images: int) -> float:
    """Return the cost of the statistics of networks between two others, if it has such."""
    if not isinstance(method, Interpolate):
        return 0.0
    between = sum(point.lam not in (0, 1) for point in method.operating_points(study.lams()))
    steps = min(STATISTICS_BATCHES, steps_per_epoch(images, study.train.batch_size))
    clean_and_attacked = 2 + 2 * study.attack.steps
    width = relative_flops(study.model, method.width_mult, _nominal_data(study)[2])
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
