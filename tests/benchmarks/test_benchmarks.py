"""The benchmarks run, on sizes that say nothing about speed."""

import math

from benchmarks.attack import attack_times
from benchmarks.costs import costs


def test_the_attack_is_timed_in_its_three_forms() -> None:
    times = attack_times(side=8, width=2, batch=12, rounds=1)
    assert times.keys() == {"conditional", "view", "view_default_layout"}
    assert all(0 < value < math.inf for value in times.values())


def test_costs_are_counted_at_every_width() -> None:
    rows = costs("resnet18", 8)
    assert [row["width_mult"] for row in rows] == [1.0, 0.75, 0.5]
    assert rows[0]["parameters_at_one_lam"] == 11.17  # torchvision's 11.18 M without its big stem
    for row in rows:
        ratio = row["flops_ratio"]
        assert isinstance(ratio, float)
        assert ratio > 1
