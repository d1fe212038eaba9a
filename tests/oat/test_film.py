import pytest
import torch
from torch import nn

from oat.models.film import FiLM


@pytest.mark.parametrize("channels", [6, 3])
def test_identity_init_is_the_identity_for_every_lambda_and_width(channels: int) -> None:
    film = FiLM(6, 4, init="identity")
    scale, shift = film(torch.randn(5, 4), channels)
    assert torch.equal(scale, torch.ones(5, channels))
    assert torch.equal(shift, torch.zeros(5, channels))


def test_film_is_two_linear_layers_with_leaky_relu_after_both() -> None:
    film = FiLM(6, 4, init="paper")
    code = torch.randn(5, 4)
    layers = nn.Sequential(film.hidden, nn.LeakyReLU(0.01), film.out, nn.LeakyReLU(0.01))
    expected = layers(code)
    scale, shift = film(code, 6)
    assert (expected < 0).any()
    torch.testing.assert_close(scale, expected[:, :6], rtol=0, atol=0)
    torch.testing.assert_close(shift, expected[:, 6:], rtol=0, atol=0)


def test_paper_init_is_torchs_default() -> None:
    torch.manual_seed(3)
    film = FiLM(6, 4, init="paper")
    torch.manual_seed(3)
    hidden, out = nn.Linear(4, 12), nn.Linear(12, 12)
    assert torch.equal(film.hidden.weight, hidden.weight)
    assert torch.equal(film.hidden.bias, hidden.bias)
    assert torch.equal(film.out.weight, out.weight)
    assert torch.equal(film.out.bias, out.bias)


def test_width_half_ignores_the_hidden_units_it_does_not_use() -> None:
    film = FiLM(6, 4, init="paper")
    code = torch.randn(5, 4)
    scale, shift = film(code, 3)
    assert scale.shape == shift.shape == (5, 3)
    with torch.no_grad():
        film.hidden.weight[6:] = float("nan")
        film.hidden.bias[6:] = float("nan")
        film.out.weight[:, 6:] = float("nan")
    again = film(code, 3)
    assert torch.equal(again[0], scale)
    assert torch.equal(again[1], shift)


def test_rows_are_modulated_by_their_own_code() -> None:
    film = FiLM(6, 4, init="paper")
    code = torch.randn(3, 4)
    together = torch.cat(film(code, 6), dim=1)
    alone = torch.cat([torch.cat(film(code[i : i + 1], 6), dim=1) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together[0], together[1])


def test_unknown_init_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`film_init`.*'zero'"):
        FiLM(6, 4, init="zero")


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_film_at_a_width_is_one_of_that_size_with_the_leading_weights(channels: int) -> None:
    film, small = FiLM(6, 4, init="paper"), FiLM(channels, 4, init="paper")
    n = 2 * channels
    with torch.no_grad():
        small.hidden.weight.copy_(film.hidden.weight[:n])
        small.hidden.bias.copy_(film.hidden.bias[:n])
        for part in (slice(0, 6), slice(6, 12)):
            to = slice(0, channels) if part.start == 0 else slice(channels, n)
            small.out.weight[to] = film.out.weight[part][:channels, :n]
            small.out.bias[to] = film.out.bias[part][:channels]
    code = torch.randn(5, 4)
    for ours, expected in zip(film(code, channels), small(code, channels), strict=True):
        torch.testing.assert_close(ours, expected)


def test_width_half_uses_no_scale_or_shift_of_a_channel_that_it_leaves_out() -> None:
    film = FiLM(6, 4, init="paper")
    code = torch.randn(5, 4)
    expected = film(code, 3)
    with torch.no_grad():
        for start in (3, 9):
            film.out.weight[start : start + 3] = float("nan")
            film.out.bias[start : start + 3] = float("nan")
    for ours, theirs in zip(film(code, 3), expected, strict=True):
        assert torch.equal(ours, theirs)
