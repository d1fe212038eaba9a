import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from oat.deploy import condition, fold, specialize
from oat.encodings import Encoding
from oat.losses import cross_entropy_of
from oat.models import Conditioning, ModelConfig, Network, build
from oat.models.norm import Condition, Norm2d

LAMS = (0.0, 0.3, 1.0)
Randomise = Callable[[Network], Network]
Batch = tuple[Tensor, Tensor]


def _conditional(*, dual_bn: bool, film_init: str, name: str = "resnet8") -> Network:
    return build(
        ModelConfig(name, 4),
        in_channels=3,
        num_classes=5,
        conditioning=Conditioning(
            LAMS, encoding_dim=4, dual_bn=dual_bn, film_init=film_init, widths=(1.0, 0.5)
        ),
    )


def _plain() -> Network:
    return build(ModelConfig("resnet8", 4), in_channels=3, num_classes=5)


def _at(model: Network, lam: float, width: float) -> Callable[[Tensor], Tensor]:
    """Return the conditional network in eval mode at one λ and width, by its public forward."""
    assert model.encoding is not None
    code = model.encoding(lam)

    def logits(images: Tensor) -> Tensor:
        zeros = len(images) if lam == 0 else 0
        return model.eval()(images, code, num_zero_lam=zeros, width_mult=width)

    return logits


def _logits_and_gradient(
    logits_fn: Callable[[Tensor], Tensor], batch: Batch
) -> tuple[Tensor, Tensor]:
    images = batch[0].clone().requires_grad_()
    logits = logits_fn(images)
    (gradient,) = torch.autograd.grad(cross_entropy_of(batch[1])(logits).sum(), images)
    assert gradient.abs().max() > 0
    return logits, gradient


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dual_bn", [True, False])
@pytest.mark.parametrize("film_init", ["paper", "identity"])
@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("lam", LAMS)
def test_specialize_equals_the_conditional_network_at_that_lambda_and_width(
    training: bool,
    dual_bn: bool,
    film_init: str,
    width: float,
    lam: float,
    batch: Batch,
    randomise: Randomise,
) -> None:
    model = randomise(_conditional(dual_bn=dual_bn, film_init=film_init)).double()
    double = (batch[0].double(), batch[1])
    expected = _logits_and_gradient(_at(model, lam, width), double)
    view = specialize(model.train(training), condition(model, lam, width))
    ours = _logits_and_gradient(view, double)
    torch.testing.assert_close(ours[0], expected[0])
    torch.testing.assert_close(ours[1], expected[1])


@pytest.mark.parametrize("dual_bn", [True, False])
@pytest.mark.parametrize("film_init", ["paper", "identity"])
@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("lam", LAMS)
def test_fold_equals_the_conditional_network_at_that_lambda_and_width(
    dual_bn: bool, film_init: str, width: float, lam: float, batch: Batch, randomise: Randomise
) -> None:
    model = randomise(_conditional(dual_bn=dual_bn, film_init=film_init))
    expected = _logits_and_gradient(_at(model, lam, width), batch)
    ours = _logits_and_gradient(fold(model, lam, width), batch)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_deeper_families_fold_too(name: str, batch: Batch, randomise: Randomise) -> None:
    model = randomise(_conditional(dual_bn=True, film_init="paper", name=name))
    expected = _at(model, 0.3, 0.5)(batch[0])
    atol = 1e-4 * expected.abs().max().item()
    torch.testing.assert_close(fold(model, 0.3, 0.5)(batch[0]), expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("dual_bn", [True, False])
def test_specialize_lets_each_row_have_its_own_lambda(
    dual_bn: bool, batch: Batch, randomise: Randomise
) -> None:
    model = randomise(_conditional(dual_bn=dual_bn, film_init="paper")).double()
    images, labels = batch[0].double(), batch[1]
    index = torch.tensor([1, 2] * 6)
    assert model.encoding is not None
    view = specialize(model.train(), Condition(model.encoding.table, index, 0))
    logits, gradient = _logits_and_gradient(view, (images, labels))
    for i, j in enumerate(index.tolist()):
        row = slice(i, i + 1)
        expected = _logits_and_gradient(_at(model, LAMS[j], 1.0), (images[row], labels[row]))
        torch.testing.assert_close(logits[row], expected[0])
        torch.testing.assert_close(gradient[row], expected[1])


def test_plain_network_specialises_and_folds_to_itself_in_eval_mode(
    batch: Batch, randomise: Randomise
) -> None:
    model = randomise(_plain())
    expected = _logits_and_gradient(copy.deepcopy(model).eval(), batch)
    for logits_fn in (specialize(model, condition(model, None)), fold(model, None)):
        for a, b in zip(_logits_and_gradient(logits_fn, batch), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


def test_running_a_view_touches_no_gradient_buffer_or_train_flag(
    batch: Batch, randomise: Randomise
) -> None:
    model = randomise(_conditional(dual_bn=True, film_init="paper")).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    _logits_and_gradient(specialize(model, condition(model, 0.3)), batch)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_folding_leaves_the_network_as_it_was(randomise: Randomise) -> None:
    model = randomise(_conditional(dual_bn=True, film_init="paper")).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain = fold(model, 0.3, 0.5)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(("width", "channels"), [(1.0, 4), (0.5, 2)])
def test_folded_network_has_plain_convolutions_of_its_width_only(
    width: float, channels: int
) -> None:
    plain = fold(_conditional(dual_bn=True, film_init="identity"), 0.3, width)
    assert not any(isinstance(m, Norm2d | nn.BatchNorm2d) for m in plain.modules())
    assert plain.encoding is None
    assert not plain.training
    assert not any(p.requires_grad for p in plain.parameters())
    bare = build(ModelConfig("resnet8", channels), in_channels=3, num_classes=5)
    shapes = [m.weight.shape for m in bare.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    folded = [m.weight.shape for m in plain.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert folded == shapes


def test_a_folded_network_folds_to_itself(batch: Batch, randomise: Randomise) -> None:
    once = fold(randomise(_plain()), None)
    assert torch.equal(fold(once, None)(batch[0]), once(batch[0]))


@pytest.mark.parametrize("make", [condition, fold])
def test_lambda_or_width_that_does_not_fit_is_refused(make: Callable[..., object]) -> None:
    conditional = _conditional(dual_bn=True, film_init="identity")
    with pytest.raises(ValueError, match="`lam` is required"):
        make(conditional, None)
    with pytest.raises(ValueError, match="`lam` must be None"):
        make(_plain(), 0.3)
    with pytest.raises(ValueError, match=r"`lam` 0\.7 was not trained"):
        make(conditional, 0.7)


def test_folding_at_a_width_that_was_not_trained_is_refused() -> None:
    with pytest.raises(ValueError, match="`width_mult`"):
        fold(_conditional(dual_bn=True, film_init="identity"), 0.3, 0.25)


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1"])
@pytest.mark.parametrize("encoding", ["none", "continuous"])
@pytest.mark.parametrize("lam", [0.0, 1e-5, 0.123, 0.3, 1.0])
def test_network_with_an_encoding_by_value_deploys_at_any_lambda(
    name: str, encoding: Encoding, lam: float, batch: Batch, randomise: Randomise
) -> None:
    conditioning = Conditioning(
        LAMS, encoding, 4, dual_bn=True, film_init="paper", widths=(1.0, 0.5)
    )
    model = randomise(
        build(ModelConfig(name, 4), in_channels=3, num_classes=5, conditioning=conditioning)
    )
    for width in (1.0, 0.5):
        expected = _logits_and_gradient(_at(model, lam, width), batch)
        views = (fold(model, lam, width), specialize(model, condition(model, lam, width)))
        for view in views:
            for a, b in zip(_logits_and_gradient(view, batch), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


@pytest.mark.parametrize("lam", LAMS)
def test_specialised_rows_of_every_width_are_those_of_one_lambda(
    lam: float, batch: Batch, randomise: Randomise
) -> None:
    model = randomise(_conditional(dual_bn=True, film_init="paper", name="wrn-10-1")).double()
    images = batch[0].double()
    place = LAMS.index(lam)
    assert model.encoding is not None
    for width in (1.0, 0.5):
        index = torch.full((12,), place)
        zeros = None if lam == 0 else 0
        view = specialize(model, Condition(model.encoding.table, index, zeros, width))
        torch.testing.assert_close(view(images), _at(model, lam, width)(images))


def test_network_of_a_base_width_folds_to_its_own_channels(
    batch: Batch, randomise: Randomise
) -> None:
    conditioning = Conditioning(LAMS, encoding_dim=4, widths=(1.0, 0.5), base_width=0.5)
    model = randomise(
        build(ModelConfig("resnet8", 8), in_channels=3, num_classes=5, conditioning=conditioning)
    )
    for width, channels in ((1.0, 4), (0.5, 2)):
        folded = fold(model, 0.3, width)
        assert folded.config.first_width == channels
        expected = _at(model, 0.3, width)(batch[0])
        atol = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(folded(batch[0]), expected, rtol=1e-4, atol=atol)


def test_folding_and_specialising_draw_no_random_number(randomise: Randomise) -> None:
    model = randomise(_conditional(dual_bn=True, film_init="paper", name="wrn-10-1"))
    state = torch.get_rng_state()
    fold(model, 0.3, 0.5)
    specialize(model, condition(model, 0.3, 0.5))
    assert torch.equal(torch.get_rng_state(), state)
