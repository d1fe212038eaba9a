import math

import pytest
import torch
from torch import nn

from baselines import PgdAt, Trades
from benchmarks.roofline import (
    Convolved,
    features_moved,
    features_per_pass,
    floor,
    in_units,
    operations,
    rates,
)
from oat.attacks import Attack
from oat.method import Method, Oat, Oats
from oat.models import ModelConfig, build, flops

TINY = ModelConfig("resnet8", 4)
IMAGE = (3, 8, 8)


def test_the_features_of_two_convolutions_are_counted_in_and_out() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 7, 3, stride=2))
    with torch.no_grad(), Convolved() as counted:
        net(torch.zeros(2, 3, 9, 9))
    assert counted.features == 2 * (3 * 81 + 5 * 81 + 5 * 81 + 7 * 16)


def test_the_features_of_a_pass_grow_with_the_area() -> None:
    small = features_per_pass(TINY, IMAGE)
    # six convolutions of the first two stages alone: 3 -> 4, 4 -> 4 twice, 4 -> 8, 8 -> 8
    assert small > 64 * (3 + 4 + 4 * 4 + 4) + 16 * (8 + 2 * 8)
    assert features_per_pass(TINY, (3, 16, 16)) == 4 * small


def test_half_of_the_channels_move_half_of_the_features_but_those_of_the_image() -> None:
    whole, half = (features_per_pass(TINY, IMAGE, width) for width in (1.0, 0.5))
    assert whole - 3 * 64 == 2 * (half - 3 * 64)


@pytest.mark.parametrize(
    ("method", "passes"),
    [(PgdAt(0.0), 3), (PgdAt(1.0), 3 + 14), (Trades(6.0), 6 + 14 + 1), (Oat(), 17 * 10 / 12 + 3)],
)
def test_a_step_moves_and_computes_what_its_passes_do(method: Method, passes: float) -> None:
    moved = features_moved(method, Attack(), 12, TINY, IMAGE)
    assert math.isclose(moved, passes * features_per_pass(TINY, IMAGE))
    forward = flops(build(TINY, in_channels=3, num_classes=10), IMAGE)
    assert math.isclose(operations(method, Attack(), 12, TINY, IMAGE), passes * forward)


def test_a_step_of_oats_moves_the_features_of_each_width() -> None:
    of_all = sum(features_per_pass(TINY, IMAGE, width) for width in (0.5, 0.75, 1.0))
    moved = features_moved(Oats(), Attack(), 12, TINY, IMAGE)
    assert math.isclose(moved, (17 * 10 / 12 + 3) * of_all)


def test_the_floor_is_the_longer_of_arithmetic_and_memory() -> None:
    assert floor(100.0, 10.0, 4, 50.0, 8.0) == {
        "operations_s": 2.0,
        "features_s": 5.0,
        "floor_s": 5.0,
    }


def test_rates_are_measured_and_told_in_units() -> None:
    found = rates(small=True)
    assert {"float32", "bfloat16", "copy"} <= found.keys()
    assert all(0 < value < math.inf for value in found.values())
    assert in_units({"float32": 2e12, "copy": 3e9}) == {
        "float32_tflops": 2.0,
        "copy_gb_per_second": 3.0,
    }
