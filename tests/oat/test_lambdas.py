import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from oat.lambdas import SAME_LAM, SAMPLINGS, LambdaSampler, Sampling, check_choices

PAPER = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
GRID = st.integers(0, 1000).map(lambda n: n / 1000)


def test_twenty_two_of_a_batch_of_128_train_at_lambda_zero() -> None:
    assert LambdaSampler(PAPER).num_zero_rows(128) == 22


def test_no_row_trains_at_zero_where_zero_is_not_a_choice_and_all_where_it_is_alone() -> None:
    assert LambdaSampler((0.5, 1.0)).num_zero_rows(128) == 0
    assert LambdaSampler((0.0,)).num_zero_rows(7) == 7


@given(
    choices=st.lists(GRID, min_size=1, max_size=6, unique=True),
    batch_size=st.integers(1, 60),
    seed=st.integers(0, 2**31),
)
def test_rows_at_zero_stand_first_and_the_rest_are_never_zero(
    choices: list[float], batch_size: int, seed: int
) -> None:
    source = torch.Generator().manual_seed(seed)
    drawn = LambdaSampler(tuple(choices)).draw(batch_size, generator=source).rows().tolist()
    num_zero = 0
    if 0 in choices:
        num_zero = batch_size if len(choices) == 1 else math.ceil(batch_size / len(choices))
    assert len(drawn) == batch_size
    assert all(lam == 0 for lam in drawn[:num_zero])
    assert all(lam != 0 for lam in drawn[num_zero:])


def test_values_other_than_zero_are_drawn_uniformly(generator: torch.Generator) -> None:
    rows = LambdaSampler((0.4, 0.0, 1.0, 0.2)).draw(40_000, generator=generator).rows()
    counts = {lam: int((rows == torch.tensor(lam)).sum()) for lam in (0.0, 0.2, 0.4, 1.0)}
    assert counts.pop(0.0) == 10_000
    deviation = math.sqrt(30_000 * (1 / 3) * (2 / 3))
    assert all(abs(count - 10_000) < 5 * deviation for count in counts.values())


def test_sampling_repeats_with_its_generator() -> None:
    def draw(seed: int) -> list[int]:
        source = torch.Generator().manual_seed(seed)
        return LambdaSampler(PAPER).draw(64, generator=source).index.tolist()

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize(
    ("sampling", "distribution"),
    [("uniform", lambda lam: lam), ("steep", np.sqrt)],
)
@pytest.mark.parametrize("choices", [PAPER, (0.5, 1.0)])
def test_continuous_draws_have_the_stated_distribution(
    sampling: Sampling,
    distribution: Callable[[Any], Any],
    choices: tuple[float, ...],
    generator: torch.Generator,
) -> None:
    rows = LambdaSampler(choices, sampling).draw(12_000, generator=generator)
    assert rows.num_zero == (2000 if 0 in choices else 0)
    drawn = rows.rows()[rows.num_zero :].double().numpy()
    assert drawn.min() > 0
    assert drawn.max() <= 1
    assert kstest(drawn, distribution).pvalue > 1e-3


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("batchwise", [True, False])
@given(
    choices=st.sampled_from([PAPER, (0.0,), (1.0,), (1.0, 0.0), (0.5, 1.0), (0.3, 0.0, 1.0)]),
    zero_share=st.one_of(st.none(), st.floats(0.001, 0.999)),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_every_sampler_fills_the_batch_with_its_zeros_first(
    sampling: Sampling,
    batchwise: bool,
    choices: tuple[float, ...],
    zero_share: float | None,
    batch_size: int,
    seed: int,
) -> None:
    zero_share = zero_share if 0 in choices else None
    if sampling != "choices" and choices == (0.0,):
        with pytest.raises(ValueError, match="needs a λ above 0"):
            LambdaSampler(choices, sampling, zero_share, batchwise)
        return
    sampler = LambdaSampler(choices, sampling, zero_share, batchwise)
    rows = sampler.draw(batch_size, generator=torch.Generator().manual_seed(seed))
    lams = rows.rows()
    assert lams.shape == (batch_size,)
    assert (lams[: rows.num_zero] == 0).all()
    assert (lams[rows.num_zero :] > 0).all()
    assert lams.max() <= 1
    if sampling == "choices":
        assert torch.isin(lams, torch.tensor(choices)).all()
    if batchwise:
        assert len(lams.unique()) == 1
        assert rows.num_zero in (0, batch_size)
        assert rows.values.shape == (1,)
    else:
        assert rows.num_zero == sampler.num_zero_rows(batch_size)
    if choices == (0.0,):
        assert rows.num_zero == batch_size


@given(percent=st.integers(1, 99), batch_size=st.integers(1, 300))
def test_share_of_zero_is_rounded_up_exactly_and_leaves_a_row_to_the_others(
    percent: int, batch_size: int
) -> None:
    sampler = LambdaSampler(PAPER, zero_share=percent / 100)
    wanted = math.ceil(Fraction(percent * batch_size, 100))
    assert sampler.num_zero_rows(batch_size) == min(wanted, max(1, batch_size - 1))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("zero_share", "expected"), [(None, 1 / 6), (0.4, 0.4), (0.9, 0.9)])
def test_batches_have_lambda_zero_as_often_as_asked(
    sampling: Sampling, zero_share: float | None, expected: float, generator: torch.Generator
) -> None:
    sampler = LambdaSampler(PAPER, sampling, zero_share, batchwise=True)
    assert sampler.share_of_zero(8) == pytest.approx(expected)
    zeros = sum(sampler.draw(8, generator=generator).num_zero == 8 for _ in range(2000))
    assert abs(zeros - 2000 * expected) < 5 * math.sqrt(2000 * expected * (1 - expected))


@pytest.mark.parametrize("batchwise", [True, False])
@pytest.mark.parametrize("choices", [PAPER, (0.0, 1.0), (1.0,), (0.5, 1.0), (0.0, 0.5), (0.0,)])
def test_share_of_one_is_how_often_one_is_drawn(
    batchwise: bool, choices: tuple[float, ...], generator: torch.Generator
) -> None:
    sampler = LambdaSampler(choices, batchwise=batchwise)
    share = sampler.share_of_one(30)
    drawn = torch.stack([sampler.draw(30, generator=generator).rows() for _ in range(600)])
    independent = 600 * (1 if batchwise else 30)
    deviation = math.sqrt(share * (1 - share) / independent)
    assert abs((drawn == 1).double().mean().item() - share) <= 5 * deviation + 1e-12


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("batchwise", [True, False])
def test_every_sampling_repeats_with_its_generator_alone(
    sampling: Sampling, batchwise: bool
) -> None:
    sampler = LambdaSampler(PAPER, sampling, 0.25, batchwise)

    def draw(seed: int, other: int) -> list[list[float]]:
        torch.manual_seed(other)
        source = torch.Generator().manual_seed(seed)
        return [sampler.draw(16, generator=source).rows().tolist() for _ in range(8)]

    state = torch.get_rng_state()
    assert draw(3, 1) == draw(3, 2)
    assert draw(3, 1) != draw(4, 1)
    torch.set_rng_state(state)
    sampler.draw(16, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("zero_share", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_share_of_zero_outside_the_open_unit_interval_is_refused(zero_share: float) -> None:
    with pytest.raises(ValueError, match="`zero_share` must be in"):
        LambdaSampler(PAPER, zero_share=zero_share)


def test_share_of_zero_without_zero_and_unknown_sampling_are_refused() -> None:
    with pytest.raises(ValueError, match="`zero_share` needs 0"):
        LambdaSampler((0.5, 1.0), zero_share=0.5)
    with pytest.raises(ValueError, match=r"`sampling`.*'normal'"):
        LambdaSampler(PAPER, "normal")  # type: ignore[arg-type]


@pytest.mark.parametrize("choices", [(SAME_LAM / 2, 1.0), (0.1, 0.1 + SAME_LAM / 100, 1.0)])
def test_lambdas_that_evaluation_would_take_for_one_another_are_refused(
    choices: tuple[float, ...],
) -> None:
    with pytest.raises(ValueError, match=r"`lambda_choices`.*1e-06"):
        check_choices(choices)
