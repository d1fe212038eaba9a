import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from studies.results.masking import (
    BLACK_BOX,
    CHECK_COLUMNS,
    CHECKED,
    FLAT,
    GAP,
    HARM,
    HELP,
    LEFT,
    NO_FLAG,
    NOISE,
    NOT_CHECKED,
    RISE,
    flags,
    masking_columns,
)

HONEST = {
    "images": 200,
    "sa": 0.9,
    "ra": 0.5,
    "ra_restarts": 0.49,
    "ra_strong": 0.47,
    "ra_noise": 0.88,
    "ra_eps_0": 0.9,
    "ra_eps_2x": 0.2,
    "ra_eps_4x": 0.02,
    "ra_eps_half": 0.0,
    "zero_gradients": 0.0,
    "gap_autoattack": 0.03,
    "gap_black_box": -0.2,
}
"""Numbers of a network that hides nothing, less the prefix of their columns."""

ROOM = 1e-6


def _flags(**changed: float) -> list[str]:
    return flags({f"check_{name}": value for name, value in {**HONEST, **changed}.items()})


def test_the_made_up_numbers_are_all_there_are_and_honest() -> None:
    assert {f"check_{name}" for name in HONEST} == set(CHECK_COLUMNS)
    assert _flags() == []


EDGES: list[tuple[str, str, float, float, dict[str, float]]] = [
    ("radius 0 changes the accuracy", "ra_eps_0", 0.9, 0.9 - 0.005, {}),
    ("radius 0 changes the accuracy", "sa", 0.9, 0.9 - 0.005, {}),
    (
        "RA rises with the radius",
        "ra",
        0.9 + RISE - ROOM,
        0.9 + RISE + ROOM,
        {"ra_restarts": 0.9, "ra_strong": 0.9, "ra_noise": 0.9},
    ),
    ("RA rises with the radius", "ra_eps_2x", 0.5 + RISE - ROOM, 0.5 + RISE + ROOM, {}),
    ("RA rises with the radius", "ra_eps_4x", 0.2 + RISE - ROOM, 0.2 + RISE + ROOM, {}),
    ("RA rises with the radius", "ra_eps_half", 0.02 + RISE - ROOM, 0.02 + RISE + ROOM, {}),
    ("RA stays above 0 at radius 0.5", "ra_eps_half", LEFT, LEFT + ROOM, {"ra_eps_4x": 0.1}),
    ("more starts help much", "ra_restarts", 0.5 - HELP + ROOM, 0.5 - HELP - ROOM, {}),
    ("a stronger attack is far better", "ra_strong", 0.4 + ROOM, 0.4 - ROOM, {}),
    (
        "noise is nearly as good as PGD",
        "ra_noise",
        0.9 - NOISE * 0.4 + ROOM,
        0.9 - NOISE * 0.4 - ROOM,
        {"ra_restarts": 0.5},
    ),
    (
        "noise is nearly as good as PGD",
        "ra_noise",
        0.9 - HARM + ROOM,
        0.9 - HARM - ROOM,
        {"ra": 0.88, "ra_restarts": 0.88, "ra_strong": 0.88},
    ),
    ("zero gradients", "zero_gradients", FLAT, FLAT + ROOM, {}),
    ("PGD is far from AutoAttack", "gap_autoattack", GAP, GAP + ROOM, {}),
    ("a black box is better than PGD", "gap_black_box", BLACK_BOX, BLACK_BOX + ROOM, {}),
]


@pytest.mark.parametrize(("sign", "name", "fine", "odd", "beside"), EDGES)
def test_each_sign_has_a_threshold(
    sign: str, name: str, fine: float, odd: float, beside: dict[str, float]
) -> None:
    assert _flags(**{**beside, name: fine}) == []
    assert _flags(**{**beside, name: odd}) == [sign]


@pytest.mark.parametrize("name", [name for name in HONEST if name != "images"])
def test_what_was_not_checked_is_no_sign(name: str) -> None:
    assert _flags(**{name: math.nan}) == []


def test_only_gaps_may_be_known() -> None:
    none = dict.fromkeys(CHECKED, math.nan)
    assert _flags(**none) == []
    assert _flags(**none, gap_autoattack=0.2) == ["PGD is far from AutoAttack"]
    assert _flags(**none, gap_autoattack=math.nan, gap_black_box=0.05) == [
        "a black box is better than PGD"
    ]


def test_noise_that_breaks_what_pgd_breaks_whole_hides_nothing() -> None:
    fallen = {"ra_eps_2x": 0.0, "ra_eps_4x": 0.0}
    assert _flags(ra=0.0, ra_restarts=0.0, ra_noise=0.1, **fallen) == []


def test_a_network_without_harm_has_nothing_for_noise_to_equal() -> None:
    assert _flags(ra=0.9, ra_restarts=0.9, ra_strong=0.9, ra_noise=0.9) == []
    assert _flags(ra=0.895, ra_restarts=0.895, ra_strong=0.895, ra_noise=0.895) == []


def test_all_signs_are_named_together() -> None:
    said = _flags(
        ra_eps_0=0.8,
        ra=0.85,
        ra_restarts=0.7,
        ra_strong=0.6,
        ra_noise=0.7,
        ra_eps_half=0.3,
        zero_gradients=1.0,
        gap_autoattack=0.5,
        gap_black_box=0.5,
    )
    assert said == list(dict.fromkeys(edge[0] for edge in EDGES))


Bools = NDArray[np.bool_]


def _first(count: int, *, of: int = 100) -> Bools:
    """Return which images are robust: the first so many."""
    return np.arange(of) < count


class Points:
    """Points of one trial and the correctness of their images."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.correct: dict[str, Bools] = {}

    def add(self, key: str, attack: str, robust: Bools, **place: Any) -> "Points":
        row = {
            "point_key": key,
            "attack": attack,
            "checkpoint_rule": "last",
            "lam": 0.5,
            "width_mult": 1.0,
            "eps": 0.1,
        }
        self.rows.append({**row, **place})
        self.correct |= {f"{key}.robust": robust, f"{key}.clean": np.ones_like(robust)}
        return self

    def columns(self, *checks: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return masking_columns(self.rows, self.correct, checks)


def _check(**changed: Any) -> dict[str, Any]:
    place = {"checkpoint_rule": "last", "lam": 0.5, "width_mult": 1.0}
    return {**place, **{name: HONEST[name] for name in CHECKED}, **changed}


def test_gaps_are_of_the_same_images() -> None:
    """AutoAttack has judged the first 20 images alone, of which PGD left 20 and it 13."""
    points = (
        Points()
        .add("pgd", "pgd20", _first(60))
        .add("aa", "autoattack", _first(13, of=20))
        .add("square", "square5000", _first(55))
    )
    for column in points.columns().values():
        assert column["check_gap_autoattack"] == pytest.approx((20 - 13) / 20)
        assert column["check_gap_black_box"] == pytest.approx(0.05)
        assert column["masking"] == "PGD is far from AutoAttack; a black box is better than PGD"
        assert math.isnan(column["check_ra"])


def test_attacks_of_users_are_not_taken_for_ours_by_the_beginning_of_their_names() -> None:
    points = (
        Points()
        .add("pgd", "pgd20x5-cw-momentum0.9", _first(50))
        .add("theirs", "pgd_margin", _first(40))
        .add("patch", "square_patch-size2", _first(20))
        .add("square", "square5000", _first(42))
    )
    for column in points.columns().values():
        assert column["check_gap_black_box"] == pytest.approx(0.08)


def test_pgd_may_have_judged_fewer_images_than_the_other_attack() -> None:
    points = (
        Points().add("pgd", "pgd20", _first(7, of=10)).add("aa", "autoattack", _first(60, of=100))
    )
    assert points.columns()["aa"]["check_gap_autoattack"] == pytest.approx(0.7 - 1.0)


def test_the_strongest_of_a_kind_counts() -> None:
    points = (
        Points()
        .add("weak", "pgd20", _first(70))
        .add("strong", "pgd50x10-cw", _first(50))
        .add("fgsm", "fgsm", _first(10))
        .add("few", "square100", _first(65))
        .add("transfer", "transfer20", _first(49))
        .add("four", "autoattack-4targets", _first(45))
        .add("nine", "autoattack", _first(44))
    )
    for column in points.columns().values():
        assert column["check_gap_autoattack"] == pytest.approx(0.50 - 0.44)
        assert column["check_gap_black_box"] == pytest.approx(0.50 - 0.49)
        assert column["masking"] == NO_FLAG


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"lam": 0.0},
        {"lam": None},
        {"width_mult": 0.5},
        {"checkpoint_rule": "chosen"},
        {"eps": 0.2},
        {"split": "val"},
    ],
    ids=str,
)
def test_points_elsewhere_do_not_count(elsewhere: dict[str, Any]) -> None:
    points = (
        Points()
        .add("pgd", "pgd20", _first(60))
        .add("aa", "autoattack", _first(10), **elsewhere)
        .add("square", "square5000", _first(10), **elsewhere)
    )
    for column in points.columns().values():
        assert math.isnan(column["check_gap_autoattack"])
        assert math.isnan(column["check_gap_black_box"])
        assert column["masking"] == NOT_CHECKED


def test_fgsm_alone_is_nothing_to_tell_a_gap_from() -> None:
    points = Points().add("fgsm", "fgsm", _first(60)).add("aa", "autoattack", _first(10))
    assert points.columns()["aa"]["masking"] == NOT_CHECKED


def test_a_check_tells_of_every_point_at_its_place_and_of_no_other() -> None:
    points = (
        Points()
        .add("here", "pgd20", _first(60))
        .add("fgsm", "fgsm", _first(70))
        .add("there", "pgd20", _first(60), lam=0.0)
        .add("narrow", "pgd20", _first(60), width_mult=0.5)
        .add("other", "pgd20", _first(60), checkpoint_rule="chosen")
    )
    columns = points.columns(_check(zero_gradients=0.5), _check(lam=0.0))
    told = {key: column["masking"] for key, column in columns.items()}
    assert told == {
        "here": "zero gradients",
        "fgsm": "zero gradients",
        "there": NO_FLAG,
        "narrow": NOT_CHECKED,
        "other": NOT_CHECKED,
    }
    assert list(columns["here"]) == ["masking", *CHECK_COLUMNS]
    assert [columns["here"][f"check_{name}"] for name in CHECKED] == [
        *(HONEST[name] for name in CHECKED[:-1]),
        0.5,
    ]


def test_a_method_without_lam_is_found_by_its_place() -> None:
    points = Points().add("trades", "pgd20", _first(60), lam=None)
    assert points.columns(_check(lam=None, zero_gradients=0.5))["trades"]["masking"] == (
        "zero gradients"
    )


def test_no_points_have_no_columns() -> None:
    assert masking_columns([], {}, []) == {}


def test_points_on_held_out_images_are_held_against_each_other_and_against_no_check() -> None:
    points = (
        Points()
        .add("pgd", "pgd20", _first(60))
        .add("aa", "autoattack", _first(55))
        .add("held-pgd", "pgd20", _first(90), split="val")
        .add("held-aa", "autoattack", _first(40), split="val")
    )
    columns = points.columns(_check(zero_gradients=0.5))
    gaps = {key: column["check_gap_autoattack"] for key, column in columns.items()}
    assert gaps == pytest.approx({"pgd": 0.05, "aa": 0.05, "held-pgd": 0.5, "held-aa": 0.5})
    checked = {key: column["check_zero_gradients"] for key, column in columns.items()}
    assert checked["pgd"] == 0.5, "the check was made on test images"
    assert math.isnan(checked["held-pgd"])
