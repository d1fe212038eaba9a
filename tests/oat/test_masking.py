from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial

import pytest
import torch
from torch import Tensor

from baselines import PgdAt
from oat.adversaries import Pgd, Square
from oat.ascent import LogitsFn
from oat.attacks import Attack
from oat.data import DataConfig, Split, load
from oat.deploy import fold
from oat.evaluation import evaluate
from oat.masking import Checks, check_masking
from oat.masking_attacks import DRAWS, LARGE_EPS, PASSES
from oat.models import ModelConfig
from oat.recipe import TrainConfig
from oat.training import Training
from studies.results.masking import CHECKED, flags

EPS = 0.08
IMAGES = 150
FLAT = "zero gradients"
GREY = "RA stays above 0 at radius 0.5"
NOISE = "noise is nearly as good as PGD"


def _signs(checks: Checks) -> list[str]:
    nan = {"check_gap_autoattack": float("nan"), "check_gap_black_box": float("nan")}
    return flags({**{f"check_{name}": value for name, value in asdict(checks).items()}, **nan})


@pytest.fixture(scope="module")
def trained() -> Callable[[float], tuple[LogitsFn, Split]]:
    """Train a small network on digits at a λ, once for all who ask; and its test images."""
    data = DataConfig("digits")
    dataset = load(data)
    made: dict[float, LogitsFn] = {}

    def ask(lam: float) -> tuple[LogitsFn, Split]:
        if lam not in made:
            config = TrainConfig(epochs=4, batch_size=32, val_images=32)
            model, attack = ModelConfig("resnet8", 4), Attack(EPS, 2)
            training = Training(PgdAt(lam), model, dataset, data, config, attack, seed=0)
            for _ in training.epochs():
                pass
            made[lam] = fold(training.model, None)
        return made[lam], dataset.test.head(IMAGES)

    return ask


Trained = Callable[[float], tuple[LogitsFn, Split]]


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("eps", [EPS, 0.002])
def test_an_honest_network_has_no_sign(lam: float, eps: float, trained: Trained) -> None:
    network, split = trained(lam)
    checks = check_masking(network, split, eps)
    assert _signs(checks) == [], checks
    assert checks.sa > 0.8
    assert checks.ra < checks.sa or eps < EPS


def _saturated(network: LogitsFn, images: Tensor) -> Tensor:
    return 1e4 * network(images)


def _without_gradient(network: LogitsFn, images: Tensor) -> Tensor:
    """Round the input to a few levels: a staircase, of which every step is flat."""
    return network((images * 8).round() / 8)


def _sawtooth(network: LogitsFn, images: Tensor) -> Tensor:
    """Add teeth finer than an attack's step, far too small to change a prediction themselves."""
    return network(images + 0.002 * torch.sin(images * 40_000))


def _noisy(network: LogitsFn, images: Tensor) -> Tensor:
    return network(images + 0.3 * torch.randn_like(images))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (_saturated, {FLAT}),
        (_without_gradient, {FLAT, GREY}),
        (_sawtooth, {NOISE}),
        (_noisy, {"radius 0 changes the accuracy"}),
    ],
)
def test_planted_masks_are_found_by_name(
    plant: Callable[[LogitsFn, Tensor], Tensor], expected: set[str], trained: Trained
) -> None:
    network, split = trained(0.5)
    checks = check_masking(partial(plant, network), split, EPS)
    assert expected <= set(_signs(checks)), (checks, _signs(checks))


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "expected"), [(None, False), (_saturated, True)])
def test_a_black_box_beats_pgd_where_gradients_are_planted_away_and_there_alone(
    plant: Callable[[LogitsFn, Tensor], Tensor] | None, expected: bool, trained: Trained
) -> None:
    honest, split = trained(0.5)
    network = partial(plant, honest) if plant else honest
    white, black = (
        evaluate(network, split.head(80), attack).ra
        for attack in (Pgd(eps=EPS), Square(eps=EPS, queries=100))
    )
    nan = {f"check_{name}": float("nan") for name in CHECKED}
    gaps = {"check_gap_autoattack": float("nan"), "check_gap_black_box": white - black}
    assert bool(flags({**nan, **gaps})) == expected, (white, black)


def _line(images: Tensor) -> Tensor:
    return torch.stack([images.flatten(1).mean(dim=1) - 0.5, 0.5 - images.flatten(1).mean(1)], 1)


def _levels() -> Split:
    """Make a hundred uniform images, at every level of grey; a line's class is above the middle."""
    levels = (torch.arange(100) + 0.5) / 100
    images = levels.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    return Split(images, (levels < 0.5).long())


@pytest.mark.parametrize("eps", [0.05, 0.1, 0.2, 0.3])
def test_checks_of_a_line_are_known(eps: float) -> None:
    """An image that is further than a radius from the middle withstands it."""
    checks = check_masking(_line, _levels(), eps)

    def left(radius: float) -> float:
        return sum(abs(i + 0.5 - 50) > 100 * min(radius, 0.5) for i in range(100)) / 100

    known = (checks.ra, checks.ra_restarts, checks.ra_eps_2x, checks.ra_eps_4x, checks.ra_eps_half)
    assert known == (left(eps), left(eps), left(2 * eps), left(4 * eps), 0.0)
    assert (checks.images, checks.sa, checks.ra_eps_0, checks.zero_gradients) == (100, 1, 1, 0)
    assert left(eps) <= checks.ra_noise < 1
    assert LARGE_EPS == 0.5


def test_checks_are_those_of_the_evaluation(trained: Trained) -> None:
    network, split = trained(0.0)
    checks = check_masking(network, split.head(60), EPS, batch_size=25)
    small = split.head(60)

    def judged(eps: float, restarts: int = 1) -> float:
        return evaluate(network, small, Pgd(eps=eps, restarts=restarts), batch_size=25).ra

    assert (checks.ra, checks.ra_restarts) == (judged(EPS), judged(EPS, 5))
    assert (checks.ra_eps_0, checks.ra_eps_2x, checks.ra_eps_4x) == (
        judged(0),
        judged(2 * EPS),
        judged(4 * EPS),
    )


def _is_corner(move: Tensor, eps: float) -> bool:
    return bool((move.abs() - eps).abs().max() < 1e-6)


def test_noise_is_drawn_from_the_ball_and_from_its_corners() -> None:
    seen: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            seen.append(images)
        return _line(images) + 9 * torch.tensor([1.0, 0.0])

    images = torch.full((50, 1, 3, 3), 0.5)
    before = images.clone()
    check_masking(watched, Split(images, torch.zeros(50, dtype=torch.long)), 0.1)
    found = [x - 0.5 for x in seen]
    # plain PGD and the strong attacks look at images as well: these are in one row
    first = next(
        i
        for i in range(len(found) - DRAWS + 1)
        if [_is_corner(m, 0.1) for m in found[i : i + 6]] == [False, True] * 3
    )
    moves = found[first : first + DRAWS]
    corners = [_is_corner(m, 0.1) for m in moves]
    assert corners == [False, True] * (DRAWS // 2)
    for move in moves:
        assert move.abs().max() <= 0.1 + 1e-6
        assert abs(move.mean()) < 0.02
    assert moves[0].std().item() == pytest.approx(0.2 / 12**0.5, rel=0.1)
    assert not any(torch.equal(x, y) for x, y in zip(moves, moves[2:], strict=False))
    assert torch.equal(images, before)


@pytest.mark.parametrize("share", [0, 1, 4])
def test_gradients_of_nothing_are_counted_among_images_that_are_right(share: int) -> None:
    """Images of the first kind stand on a plateau; of eight, two are wrong."""
    images = torch.full((8, 1, 2, 2), 0.4)
    images[:share] = 0.8
    images[6:] = 0.8
    labels = torch.zeros(8, dtype=torch.long)
    labels[6:] = 1

    def plateau(x: Tensor) -> Tensor:
        level = x.flatten(1).mean(dim=1)
        return torch.stack([1 + level.clamp(max=0.6), 0 * level], dim=1)

    checks = check_masking(plateau, Split(images, labels), 0.01)
    assert checks.sa == 6 / 8
    assert checks.zero_gradients == share / 6


def test_a_network_that_is_never_right_has_nothing_to_check() -> None:
    split = _levels()
    checks = check_masking(_line, Split(split.images, 1 - split.labels), 0.1)
    assert asdict(checks) == {**dict.fromkeys(CHECKED, 0.0), "images": 100}


def test_the_order_of_calls_and_the_global_generator_change_no_check() -> None:
    first = check_masking(_line, _levels(), 0.1)
    torch.manual_seed(3)
    assert check_masking(_line, _levels(), 0.1) == first


def test_names_and_cost_of_the_checks_are_as_planned() -> None:
    assert tuple(field.name for field in fields(Checks)) == CHECKED
    rows = 0

    def sure(images: Tensor) -> Tensor:
        nonlocal rows
        rows += len(images)
        return torch.stack([images.flatten(1).sum(dim=1) + 50, images.flatten(1).sum(dim=1)], 1)

    split = Split(torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.long))
    check_masking(sure, split, 0.01)
    # the plan counts the radius of the study, with one start and with five, and one radius more;
    # an image that withstands every radius takes four more, and each forward has its backward
    attacks = 1 + 5 + 4
    strong = 2 * 50 + 2 + 1  # 50 steps from two starts; two classes have no DLR
    # one image more, without a gradient, tells how many classes there are
    assert rows / 2 == 20 * attacks + attacks + 6 + 1 + DRAWS + strong + 0.5
    assert PASSES == 2 * 20 * (5 + 2) + DRAWS + 2 * (1 + 2 * 50 * 2)
