"""What is timed is what a trial does; how long it takes is the machine's affair."""

from dataclasses import replace

import pytest
import torch

from baselines import PgdAt, Trades
from oat.adversaries import Pgd
from oat.attacks import Attack
from oat.data import DataConfig, load
from oat.deploy import fold
from oat.evaluation import evaluate
from oat.method import Method, Oat, Oats
from oat.models import ModelConfig
from oat.operating import OperatingPoint
from oat.probe import seconds_of_validation, seconds_per_pass, seconds_per_step, unbroken
from oat.recipe import TrainConfig
from oat.training import Training

DATA = DataConfig("digits", train_images=96, crop=1, flip=True)
TRAIN = TrainConfig(
    epochs=1, batch_size=32, lr=0.05, schedule="constant", val_images=16, precision="float32"
)
METHODS: dict[str, Method] = {
    "oat": Oat(lambda_choices=(0.0, 1.0), encoding_dim=8),
    "oats": Oats(lambda_choices=(0.0, 1.0), encoding_dim=8, width_mults=(0.5, 1.0)),
    "pgd_at": PgdAt(0.5),
    "trades": Trades(3.0, 0.5),
}


def _training(method: Method, model: str = "resnet8", train: TrainConfig = TRAIN) -> Training:
    config = ModelConfig(model, 2, dropout=0.3 if model.startswith("wrn") else 0.0)
    return Training(method, config, load(DATA), DATA, train, Attack(eps=0.1, steps=1), seed=0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("model", ["resnet8", "wrn-10-1"])
def test_the_steps_are_those_of_the_training_bit_for_bit(name: str, model: str) -> None:
    train = replace(TRAIN, ema=0.9, clip_norm=1.0)
    timed, real = (_training(METHODS[name], model, train) for _ in range(2))
    endless = timed.endless_steps()
    assert sum(next(endless) for _ in range(timed.steps)) == 96
    endless.close()
    list(real.epochs())
    for key, value in real.model.state_dict().items():
        assert torch.equal(timed.model.state_dict()[key], value), key


@pytest.mark.parametrize("name", METHODS)
def test_every_part_of_a_trial_takes_its_time(name: str) -> None:
    training = _training(METHODS[name])
    assert 0 < seconds_per_step(training) < 60
    assert 0 < seconds_of_validation(training) < 60
    for point in METHODS[name].operating_points((0.0, 1.0)):
        assert 0 < seconds_per_pass(training, point, 20) < 60


def test_nothing_is_drawn_from_the_generators_of_others() -> None:
    before = torch.get_rng_state()
    seconds_per_step(_training(METHODS["oat"], "wrn-10-1"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_validation_is_timed_with_every_image_in_it_to_the_end() -> None:
    training = _training(METHODS["oat"])
    network, split = fold(training.model, *OperatingPoint(1.0, 1.0)), training.dataset.val
    found = evaluate(network, unbroken(network, split), Pgd(steps=3, eps=0.0))
    assert found.sa == found.ra == 1
    assert evaluate(network, split, Pgd(steps=3, eps=0.1)).sa < 1
