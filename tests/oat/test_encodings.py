import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct

from oat.encodings import Encoding
from oat.lambdas import LambdaSampler, check_choices, check_lam
from oat.models.codes import CYCLES, LambdaEncoding, encoding_matrix, sinusoids

PAPER = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
BY_INDEX: tuple[Encoding, ...] = ("onehot", "dct", "random")


def test_onehot_is_the_identity() -> None:
    assert torch.equal(encoding_matrix("onehot", 5), torch.eye(5))


def test_dct_rows_are_those_of_scipy() -> None:
    expected = dct(np.eye(16), type=2, norm="ortho", axis=0)
    torch.testing.assert_close(
        encoding_matrix("dct", 16), torch.from_numpy(expected).float(), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("encoding", BY_INDEX)
@pytest.mark.parametrize("dim", [1, 6, 128])
def test_encoding_matrices_are_orthogonal(encoding: Encoding, dim: int) -> None:
    matrix = encoding_matrix(encoding, dim)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(dim), rtol=0, atol=1e-5)


def test_random_matrix_follows_the_global_generator() -> None:
    torch.manual_seed(7)
    first, second = encoding_matrix("random", 8), encoding_matrix("random", 8)
    torch.manual_seed(7)
    assert torch.equal(encoding_matrix("random", 8), first)
    assert not torch.equal(first, second)


def test_encoding_without_a_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="'none'"):
        encoding_matrix("none", 4)


@pytest.mark.parametrize("encoding", ["onehot", "dct"])
def test_row_j_encodes_choice_j(encoding: Encoding) -> None:
    encode = LambdaEncoding(PAPER, encoding, 8)
    rows = torch.cat([encode(lam) for lam in PAPER])
    assert torch.equal(rows, encoding_matrix(encoding, 8)[:6])


def test_encoding_none_passes_any_lambda_itself() -> None:
    encode = LambdaEncoding((0.0, 1.0), "none", 128)
    assert encode.dim == 1
    for lam in (0.0, 0.37, 1.0):
        code = encode(lam)
        assert code.shape == (1, 1)
        assert code.item() == pytest.approx(lam)
    assert encode.table.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("encoding", BY_INDEX)
def test_lambda_that_was_not_trained_is_refused(encoding: Encoding) -> None:
    encode = LambdaEncoding((0.0, 0.2, 1.0), encoding, 4)
    with pytest.raises(ValueError, match=r"`lam` 0\.5 was not trained.*0, 0\.2, 1"):
        encode(0.5)


def test_a_trained_lambda_is_found_after_rounding_to_single_precision() -> None:
    encode = LambdaEncoding(PAPER, "onehot", 6)
    assert torch.equal(encode(float(np.float32(0.1))), encode(0.1))


@pytest.mark.parametrize("encoding", ["none", *BY_INDEX])
def test_table_travels_with_the_state_dict(encoding: Encoding) -> None:
    torch.manual_seed(1)
    saved = LambdaEncoding(PAPER, encoding, 8)
    torch.manual_seed(2)
    loaded = LambdaEncoding(PAPER, encoding, 8)
    loaded.load_state_dict(saved.state_dict())
    for lam in PAPER:
        assert torch.equal(loaded(lam), saved(lam))


@pytest.mark.parametrize("lam", [-0.01, 1.01, float("nan"), float("inf")])
def test_lambda_outside_the_unit_interval_is_refused(lam: float) -> None:
    with pytest.raises(ValueError, match="`lam`"):
        check_lam(lam)
    with pytest.raises(ValueError, match="`lam`"):
        LambdaEncoding((0.0, 1.0), "none")(lam)


@pytest.mark.parametrize("choices", [(), (0.1, 0.1), (0.0, 1.5)])
def test_unfit_lambda_set_is_refused(choices: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="`lambda_choices`"):
        check_choices(choices)
    with pytest.raises(ValueError, match="`lambda_choices`"):
        LambdaEncoding(choices, "none")


def test_code_must_be_as_long_as_the_lambda_set() -> None:
    with pytest.raises(ValueError, match="`encoding_dim`"):
        LambdaEncoding(PAPER, "random", 5)


@given(lam=st.floats(0, 1), half=st.integers(1, 64))
def test_continuous_code_of_any_lambda_has_length_one(lam: float, half: int) -> None:
    code = LambdaEncoding((0.0, 1.0), "continuous", 2 * half)(lam)
    assert code.shape == (1, 2 * half)
    assert code.norm().item() == pytest.approx(1, abs=1e-6)


@given(left=st.floats(0, 1), right=st.floats(0, 1), half=st.integers(1, 64))
def test_product_of_two_continuous_codes_depends_on_their_distance_as_computed_by_hand(
    left: float, right: float, half: int
) -> None:
    low, high = CYCLES
    ratio = (high / low) ** (1 / (half - 1)) if half > 1 else 1.0
    cosines = [math.cos(2 * math.pi * low * ratio**i * (left - right)) for i in range(half)]
    codes = sinusoids(torch.tensor([left, right], dtype=torch.float64), 2 * half).double()
    assert (codes[0] @ codes[1]).item() == pytest.approx(sum(cosines) / half, abs=1e-5)


@pytest.mark.parametrize("dim", [2, 4, 128])
def test_continuous_codes_are_distinct_and_continuous_in_lambda(dim: int) -> None:
    lams = torch.linspace(0, 1, 2001, dtype=torch.float64)
    codes = sinusoids(lams, dim).double()
    distances = torch.cdist(codes, codes, compute_mode="donot_use_mm_for_euclid_dist")
    gaps = (lams[:, None] - lams).abs()
    # each frequency c moves its point on a circle of radius √(2 / dim) by a chord of angle 2πcΔ
    chord = 2 * math.sqrt(2 / dim) * torch.sin(math.pi * CYCLES[0] * gaps)
    assert (distances >= chord - 1e-6).all()
    assert (distances <= 2 * math.pi * CYCLES[1] * gaps + 1e-6).all()
    assert (distances + torch.eye(2001) > 1e-5).all()


@pytest.mark.parametrize("encoding", ["none", "continuous", *BY_INDEX])
def test_a_lambda_has_the_same_code_alone_and_among_others(encoding: Encoding) -> None:
    encode = LambdaEncoding(PAPER, encoding, 16)
    together = encode.encode(torch.tensor(PAPER, dtype=torch.float64))
    for lam, row in zip(PAPER, together, strict=True):
        assert torch.equal(encode(lam), row[None])
    assert torch.equal(together, encode.table)


def test_codes_of_the_lambdas_that_are_drawn_are_those_of_evaluation(
    generator: torch.Generator,
) -> None:
    encode = LambdaEncoding(PAPER, "continuous", 16)
    rows = LambdaSampler(PAPER, "uniform").draw(40, generator=generator)
    for lam, code in zip(rows.values.tolist(), encode.encode(rows.values), strict=True):
        assert torch.equal(encode(lam), code[None])


@pytest.mark.parametrize("dim", [0, 1, 7, -2])
def test_continuous_code_of_odd_or_no_length_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match="`encoding_dim`"):
        LambdaEncoding(PAPER, "continuous", dim)


def test_continuous_code_may_be_shorter_than_the_lambda_set() -> None:
    assert LambdaEncoding(PAPER, "continuous", 2).table.shape == (6, 2)


def test_continuous_table_travels_with_the_state_dict() -> None:
    saved, loaded = (LambdaEncoding(PAPER, "continuous", 8) for _ in range(2))
    loaded.table.zero_()
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded.table, saved.encode(torch.tensor(PAPER, dtype=torch.float64)))
