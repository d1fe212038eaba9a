"""Which attacks are put together: those of one radius that judged most."""

from typing import Any

import pandas as pd
import pytest

from studies.results.points import frame
from studies.results.worst import attacks_by_radius, own_radius, worst_case


def _judged(make_row: Any, attacks: dict[str, tuple[float, int]]) -> pd.DataFrame:
    """Return one model judged by attacks, each at a radius on so many images."""
    return frame(
        make_row("oat", lam=1.0, attack=name, eps=eps, images=images)
        for name, (eps, images) in attacks.items()
    )


def test_attacks_are_divided_by_their_radius_and_the_most_images_count(make_row: Any) -> None:
    points = _judged(
        make_row,
        {
            "pgd20": (0.1, 1000),
            "fgsm": (0.1, 1000),
            "autoattack": (0.1, 100),
            "pgd20@0.05": (0.05, 1000),
            "square@0.05": (0.05 + 1e-12, 1000),
            "autoattack@0.2": (0.2, 100),
        },
    )
    assert own_radius(points) == ["fgsm", "pgd20"]
    assert attacks_by_radius(points) == {
        0.05: ["pgd20@0.05", "square@0.05"],
        0.1: ["fgsm", "pgd20"],
        0.2: ["autoattack@0.2"],
    }
    elsewhere = points[points["eps"] != 0.1]
    assert own_radius(elsewhere) == ["autoattack@0.2"], "the largest radius, and no other with it"


def test_one_name_at_two_radii_is_of_no_radius(make_row: Any) -> None:
    rows = [
        make_row("oat", lam=1.0, eps=0.1),
        make_row("pgd_at", lam=1.0, eps=0.2),
        make_row("oat", lam=1.0, attack="fgsm@0.3", eps=0.3),
    ]
    assert attacks_by_radius(frame(rows)) == {0.3: ["fgsm@0.3"]}


def test_attacks_at_two_radii_are_never_put_together(make_row: Any) -> None:
    points = _judged(make_row, {"pgd20": (0.1, 1000), "pgd20@0.2": (0.2, 1000)})
    with pytest.raises(AssertionError, match="two radii"):
        worst_case(points, {}, ["pgd20", "pgd20@0.2"])
