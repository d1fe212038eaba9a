"""The price of a training against the operations that torch counts in it."""

from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from oat.models import forward_flops
from oat.price import step_units, training_gradients, training_units
from oat.recipe import STATISTICS_BATCHES, images_seen
from tests.oat.trainings import METHODS, MODEL, training_of


class Operations(TorchDispatchMode):
    """Adds up the operations of convolutions and matrix products; a multiply-add is two."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("name", ["standard", "pgd_at_half", "trades", "oat"])
def test_a_training_costs_what_it_computes(
    name: str, ema: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oat.training.validate", lambda *_args: (0.5, 0.5))
    training = training_of(name, epochs=2, ema=ema)
    with Operations() as counted:
        list(training.epochs())
        training.kept()
    images, shape = len(training.dataset.train), training.dataset.image_shape
    units = training_units(training.method, training.attack, training.config, MODEL, shape, images)
    forward = forward_flops(MODEL, shape, training.dataset.num_classes)
    # FiLM is not counted by the price; a step needs no gradient to the images
    assert counted.total == pytest.approx(units * forward, rel=0.03)


@pytest.mark.parametrize("name", ["standard", "pgd_at_half", "trades", "oat"])
def test_steps_and_statistics_add_up(name: str) -> None:
    training = training_of(name, epochs=3, ema=0.9)
    assert training.steps < STATISTICS_BATCHES
    images, size = len(training.dataset.train), training.config.batch_size
    seen = images_seen(training.config, images)
    assert seen.stepped == 3 * seen.settled
    (work,) = METHODS[name].work(training.attack, size).values()
    step = step_units(training.method, training.attack, size, MODEL, (1, 8, 8))
    units = training_units(
        training.method, training.attack, training.config, MODEL, (1, 8, 8), images
    )
    assert units == pytest.approx(seen.stepped * step + seen.settled * (step - 2 * work.trained))
    gradients = training_gradients(training.method, training.attack, training.config, images)
    assert gradients == pytest.approx(
        (seen.stepped + seen.settled) * work.gradients - seen.settled * work.trained
    )
