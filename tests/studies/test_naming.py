"""Settings and differences in words: short, and never two values in the same words."""

import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oat.names import number_text
from studies.naming import NamedRow, knob_text
from studies.report.cells import difference


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_two_values_never_read_the_same(one: float, other: float) -> None:
    assert (number_text(one) == number_text(other)) == (one == other)
    assert float(number_text(one)) == one


@pytest.mark.parametrize(("value", "said"), [(0.2, "0.2"), (6.0, "6"), (1e-5, "1e-05")])
def test_ordinary_values_are_short(value: float, said: str) -> None:
    assert number_text(value) == said


def test_a_method_with_both_weights_tells_both() -> None:
    row = cast(NamedRow, {"variant": "mine:Both", "lam": 0.5, "beta": 6.0, "width_mult": 1.0})
    assert knob_text(row) == "λ=0.5 β=6"


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.012, "+1.2"), (-0.0004, "-0.04"), (0.00003, "+0.003"), (0.0, "+0.0"), (-1e-9, "+0.0")],
)
def test_a_difference_is_not_rounded_to_none(value: float, said: str) -> None:
    row = {"d": value, "d_low": -0.05, "d_high": value}
    assert difference(row, "d") == f"{said} [-5.0,{said}]"
    assert math.isclose(float(str(difference(row, "d").key)), value)
