"""An image under attack, as the demo shows it: it is what an evaluation judges."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import studies
from oat.adversaries import EVALUATION_SEED, Pgd
from oat.ascent import ascend, ball, row_loss, start_point
from oat.data import DataConfig, Split, load, unit
from oat.evaluation import evaluate
from studies.deploying.demonstrating import attack_image

EPS = 0.1


def _tests(count: int) -> Split:
    return load(DataConfig("digits")).test.head(count)


def _after(network: nn.Module, image: Tensor, label: int, attack: Pgd, steps: int) -> Tensor:
    """Return what so many steps of PGD make of an image, from the start of an evaluation."""
    clean = unit(image)[None]
    source = torch.Generator().manual_seed(EVALUATION_SEED)
    start = start_point(clean, EPS, "uniform", source)
    loss, bounds = row_loss("ce", torch.tensor([label])), ball(clean, EPS)
    return ascend(network, loss, start, bounds, steps=steps, step=attack.step())


def test_the_outcome_is_that_of_an_evaluation_and_the_image_that_of_the_last_step(
    finished: Path, tiny: dict[str, Any]
) -> None:
    network = studies.load_model(tiny, storage=finished).at(1.0)
    attack, test = Pgd(eps=EPS, steps=4), _tests(60)
    outcomes = set()
    for image, number in zip(test.images, test.labels, strict=True):
        label = int(number)
        found = attack_image(network, image, label, attack)
        judged = evaluate(network, Split(image[None], number[None]), attack)
        assert found.robust == bool(judged.robust)
        outcomes.add((bool(judged.clean), found.robust))
        assert (found.image - unit(image)).abs().max() <= EPS + 1e-6
        assert found.image.min() >= 0
        assert found.image.max() <= 1
        probabilities = network(found.image[None])[0].softmax(0)
        torch.testing.assert_close(found.probabilities, probabilities)
        assert (int(found.probabilities.argmax()) == label) == found.robust
        if not judged.clean:
            assert torch.equal(found.image, unit(image))
            assert found.broken_after is None
            continue
        after = [_after(network, image, label, attack, steps) for steps in range(5)]
        wrong = [int(network(one).argmax()) != label for one in after]
        assert found.broken_after == (wrong.index(True) if any(wrong) else None)
        shown = 4 if wrong[4] or found.robust else wrong.index(True)
        assert torch.equal(found.image, after[shown][0])
    assert outcomes == {(False, False), (True, False), (True, True)}


def _start(pixel: float, seed: int = EVALUATION_SEED) -> float:
    source = torch.Generator().manual_seed(seed)
    return start_point(torch.full((1, 1, 1, 1), pixel), EPS, "uniform", source).item()


class _Line(nn.Module):
    """Two classes of images of one pixel, told apart by whether it is above a half."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)
        return torch.cat([0.5 - pixel, pixel - 0.5], 1)


@pytest.mark.parametrize("pixel", [0.495, 0.45, 0.41, 0.3, 0.6])
def test_on_a_line_the_steps_until_the_answer_is_wrong_are_known(pixel: float) -> None:
    image, step = torch.full((1, 1, 1), pixel), 0.03
    found = attack_image(_Line(), image, 0, Pgd(eps=EPS, steps=20, step_size=step, restarts=3))
    needed = max(0, math.ceil((0.5 - _start(pixel)) / step))
    assert found.broken_after == (needed if 0.4 < pixel < 0.5 else None)
    assert found.robust == (pixel == 0.3)
    assert found.image.item() == pytest.approx(pixel if pixel > 0.5 else pixel + EPS)


class _Flat(nn.Module):
    """Two classes told apart by whether the pixel is at least so large; its gradient is 0."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)
        right = (pixel >= self.least).float() + 0 * pixel
        return torch.cat([right, 1 - right], 1)


def test_an_image_that_a_later_start_breaks_has_the_steps_of_that_start() -> None:
    first, second = (_start(0.5, EVALUATION_SEED + i) for i in range(2))
    assert second < 0.5 < first, "for the test: they are on two sides of the image"
    network, image = _Flat((0.5 + second) / 2), torch.full((1, 1, 1), 0.5)
    assert attack_image(network, image, 0, Pgd(eps=EPS, steps=3)).robust
    found = attack_image(network, image, 0, Pgd(eps=EPS, steps=3, restarts=2))
    assert (found.robust, found.broken_after) == (False, 0)
    assert found.image.item() == pytest.approx(second)
