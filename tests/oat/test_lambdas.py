import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct

from oat.lambdas import (
    Encoding,
    LambdaEncoding,
    LambdaSampler,
    check_choices,
    check_lam,
    encoding_matrix,
)

PAPER = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
BY_INDEX: tuple[Encoding, ...] = ("onehot", "dct", "random")


def test_twenty_two_of_a_batch_of_128_train_at_lambda_zero() -> None:
    assert LambdaSampler(PAPER).num_zero_rows(128) == 22


def test_no_row_trains_at_zero_where_zero_is_not_a_choice_and_all_where_it_is_alone() -> None:
    assert LambdaSampler((0.5, 1.0)).num_zero_rows(128) == 0
    assert LambdaSampler((0.0,)).num_zero_rows(7) == 7


@given(
    choices=st.lists(st.floats(0, 1), min_size=1, max_size=6, unique=True),
    batch_size=st.integers(1, 60),
    seed=st.integers(0, 2**31),
)
def test_rows_at_zero_stand_first_and_the_rest_are_never_zero(
    choices: list[float], batch_size: int, seed: int
) -> None:
    source = torch.Generator().manual_seed(seed)
    index = LambdaSampler(tuple(choices)).draw(batch_size, generator=source)
    drawn = [choices[i] for i in index.index.tolist()]
    num_zero = 0
    if 0 in choices:
        num_zero = batch_size if len(choices) == 1 else math.ceil(batch_size / len(choices))
    assert len(drawn) == batch_size
    assert all(lam == 0 for lam in drawn[:num_zero])
    assert all(lam != 0 for lam in drawn[num_zero:])


def test_values_other_than_zero_are_drawn_uniformly(generator: torch.Generator) -> None:
    index = LambdaSampler((0.4, 0.0, 1.0, 0.2)).draw(40_000, generator=generator).index
    counts = torch.bincount(index, minlength=4).tolist()
    assert counts[1] == 10_000
    deviation = math.sqrt(30_000 * (1 / 3) * (2 / 3))
    assert all(abs(counts[i] - 10_000) < 5 * deviation for i in (0, 2, 3))


def test_sampling_repeats_with_its_generator() -> None:
    def draw(seed: int) -> list[int]:
        source = torch.Generator().manual_seed(seed)
        return LambdaSampler(PAPER).draw(64, generator=source).index.tolist()

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


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
