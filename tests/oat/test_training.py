import math
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from oat.checkpoint import dumps, loads
from oat.data import Dataset, Split, load
from oat.method import Oat, Oats
from oat.models import ModelConfig
from oat.recipe import TrainConfig, steps_per_epoch
from oat.training import DivergenceError
from tests.oat.trainings import (
    DATA,
    EVERYTHING,
    METHODS,
    MODEL,
    WIDE,
    assert_same_left_of,
    result_of,
    same_of,
    training_of,
    weights_of,
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("done", [1, 2])
def test_epochs_in_two_parts_equal_those_at_once_bit_for_bit(method: str, done: int) -> None:
    whole = training_of(method)
    expected = [result_of(record) for record in whole.epochs()]
    first = training_of(method)
    epochs = first.epochs()
    results = [result_of(next(epochs)) for _ in range(done)]
    saved = dumps(first.state_dict())
    torch.manual_seed(99)
    second = training_of(method, seed=5)
    second.load_state_dict(loads(saved))
    results += [result_of(record) for record in second.epochs()]
    assert results == expected
    assert same_of(weights_of(second), weights_of(whole))


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_gives_the_same_weights_and_another_seed_others(method: str) -> None:
    runs = []
    for seed in (0, 0, 1):
        training = training_of(method, seed=seed, epochs=1)
        torch.rand(seed + 3)  # what else draws from the global generator must not matter
        list(training.epochs())
        runs.append(weights_of(training))
    assert same_of(runs[0], runs[1])
    assert not same_of(runs[0], runs[2])


def test_validating_more_often_does_not_change_the_weights() -> None:
    often, seldom = training_of(val_every=1), training_of(val_every=3)
    records = list(often.epochs())
    assert all(record.sa_val is not None for record in records)
    list(seldom.epochs())
    assert same_of(weights_of(often), weights_of(seldom))


def test_network_left_in_eval_mode_between_epochs_is_trained_all_the_same() -> None:
    expected, training = training_of(), training_of()
    list(expected.epochs())
    for _ in training.epochs():
        training.model.eval()
    assert same_of(weights_of(training), weights_of(expected))


def test_last_epoch_is_validated_whatever_the_interval() -> None:
    records = list(training_of(val_every=2).epochs())
    assert [record.epoch for record in records] == [1, 2, 3]
    assert [record.sa_val is None for record in records] == [True, False, False]
    for record in records[1:]:
        assert record.sa_val is not None
        assert record.ra_val is not None
        assert 0 <= record.ra_val <= record.sa_val <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_parameter_is_trained_in_either_precision(method: str, precision: str) -> None:
    # batch norm takes the scale out of a convolution from one channel to one, so let there be two
    wide = ModelConfig("resnet8", 4)
    training = training_of(method, model=wide, epochs=1, precision=precision, weight_decay=0.0)
    before = weights_of(training)
    list(training.epochs())
    after = weights_of(training)
    for key, parameter in training.model.named_parameters():
        assert parameter.dtype == torch.float32
        assert not torch.equal(before[key], after[key]), key


def test_standard_training_takes_the_steps_of_a_plain_loop() -> None:
    source = torch.Generator().manual_seed(4)
    images, labels = torch.rand(8, 1, 8, 8, generator=source), torch.arange(8) % 4
    split = Split(images, labels)
    dataset = Dataset(split, split, split, 4, "0" * 12)
    still = replace(DATA, crop=0, flip=False)
    # one batch holds all images, so the order of an epoch matters by rounding only
    training = training_of("standard", dataset=dataset, data=still, batch_size=8, epochs=3)
    plain = training_of("standard", dataset=dataset, data=still).model.train()
    plain.load_state_dict(training.model.state_dict())
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for record in training.epochs():
        assert record.lr == pytest.approx(schedule.get_last_lr()[0])
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(plain(images), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
        assert record.train_loss == pytest.approx(loss.item(), rel=1e-4)
    expected = plain.state_dict()
    for key, value in training.model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4)


def test_training_lowers_the_loss() -> None:
    records = list(training_of("standard", epochs=5).epochs())
    assert records[-1].train_loss < records[0].train_loss


def test_enormous_learning_rate_diverges_in_the_first_epoch() -> None:
    training = training_of("standard", lr=1e38)
    with pytest.raises(DivergenceError, match="epoch 1") as caught:
        list(training.epochs())
    assert caught.value.epoch == 1


def test_weights_that_the_last_step_leaves_without_a_number_diverge_as_well() -> None:
    """The loss is that of before the step, so that it says nothing of the last one."""
    training = training_of("standard", epochs=1)
    real = training._train

    def train() -> tuple[float, int]:
        found = real()
        with torch.no_grad():
            next(training.model.parameters()).fill_(math.nan)
        return found

    training._train = train  # type: ignore[method-assign]
    with pytest.raises(DivergenceError, match="epoch 1"):
        list(training.epochs())


@pytest.mark.parametrize("method", METHODS)
def test_loss_that_is_not_finite_raises_with_its_epoch(method: str) -> None:
    training = training_of(method)
    epochs = training.epochs()
    next(epochs)
    with torch.no_grad():
        list(training.model.head.parameters())[-1].fill_(math.nan)
    with pytest.raises(DivergenceError, match="epoch 2") as caught:
        next(epochs)
    assert caught.value.epoch == 2


def test_divergence_error_crosses_a_process_border() -> None:
    error = pickle.loads(pickle.dumps(DivergenceError(3, math.inf, 1.5)))
    assert error.epoch == 3
    assert str(error) == str(DivergenceError(3, math.inf, 1.5))


@pytest.mark.parametrize(
    ("images", "batch", "steps"), [(96, 32, 3), (97, 32, 3), (127, 32, 3), (32, 32, 1), (5, 32, 1)]
)
def test_last_smaller_batch_is_left_out_unless_it_is_the_only_one(
    images: int, batch: int, steps: int
) -> None:
    assert steps_per_epoch(images, batch) == steps


def test_every_image_is_seen_once_in_an_epoch() -> None:
    training = training_of("standard", epochs=1, data=replace(DATA, crop=0, flip=False))
    seen: list[torch.Tensor] = []
    training.model.register_forward_pre_hook(lambda _m, args: seen.append(args[0].flatten(1)))
    list(training.epochs())
    ours = torch.cat(seen[:3])  # validation runs on a folded network, not on this one
    assert len(seen) == 3
    images = load(DATA).train.images.flatten(1)
    assert torch.equal(ours.unique(dim=0), images.unique(dim=0))
    assert len(ours) == len(images)


def test_cosine_schedule_is_torchs_and_the_constant_one_does_not_move() -> None:
    config = TrainConfig(epochs=7, lr=0.3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7)
    for epoch in range(7):
        assert config.lr_at(epoch) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert config.lr_at(7) == pytest.approx(0)
    assert {replace(config, schedule="constant").lr_at(epoch) for epoch in range(7)} == {0.3}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("val_every", 0),
        ("val_images", 0),
        ("lr", 0.0),
        ("lr", math.nan),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
    ],
)
def test_train_config_refuses_values_out_of_range_by_name(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{key}`"):
        TrainConfig(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("oat", MODEL),
        ("oats_heads", MODEL),
        ("pgd_at_narrow", MODEL),
        ("trades_narrow", MODEL),
        ("oats", WIDE),
        ("trades", WIDE),
    ],
    ids=lambda value: value.name if isinstance(value, ModelConfig) else value,
)
def test_resuming_at_any_epoch_with_every_switch_on_changes_nothing(
    method: str, model: ModelConfig
) -> None:
    whole = training_of(method, model=model, **EVERYTHING)
    saves = [dumps(whole.state_dict())]
    expected = []
    for record in whole.epochs():
        expected.append(result_of(record))
        saves.append(dumps(whole.state_dict()))
    for done, saved in enumerate(saves):
        torch.manual_seed(99)
        resumed = training_of(method, model=model, seed=5, **EVERYTHING)
        resumed.seed = whole.seed  # a study resumes with the seed it began with
        resumed.load_state_dict(loads(saved))
        assert [result_of(record) for record in resumed.epochs()] == expected[done:]
        assert same_of(weights_of(resumed), weights_of(whole))
        assert_same_left_of(resumed, whole)


def test_oats_at_the_single_width_one_trains_like_oat_bit_for_bit() -> None:
    oat, oats = (
        training_of(
            kind(lambda_choices=(0.0, 0.3, 1.0), encoding_dim=8, **more), model=WIDE, **EVERYTHING
        )
        for kind, more in ((Oat, {}), (Oats, {"width_mults": (1.0,)}))
    )
    records = []
    for training in (oat, oats):
        torch.manual_seed(4)  # dropout draws from the global generator
        records.append([result_of(record) for record in training.epochs()])
    assert records[0] == records[1]
    assert_same_left_of(oats, oat)


@pytest.mark.parametrize("method", ["oat", "pgd_at_half"])
def test_trainings_that_take_turns_do_not_change_each_other(method: str) -> None:
    # dropout draws from torch's global generator, of which a training must have one of its own
    alone = training_of(method, model=WIDE, epochs=2)
    expected = [record.train_loss for record in alone.epochs()]
    first, second = (training_of(method, model=WIDE, epochs=2) for _ in range(2))
    turns = list(zip(first.epochs(), second.epochs(), strict=True))
    assert [record.train_loss for record, _ in turns] == expected
    assert [record.train_loss for _, record in turns] == expected


def test_loading_the_state_of_a_beginning_forgets_the_best_epoch_so_far() -> None:
    expected = training_of(val_every=3)
    list(expected.epochs())
    training = training_of(val_every=3)
    beginning = dumps(training.state_dict())
    list(training.epochs())
    assert training.best is not None
    training.best = (2.0, replace(training.best[1], epoch=77))  # better than any real score
    training.load_state_dict(loads(beginning))
    list(training.epochs())
    assert training.kept()["chosen"].epoch == expected.kept()["chosen"].epoch == 3


def test_a_checkpoint_of_a_gpu_goes_on_where_it_was_on_a_cpu() -> None:
    begun = training_of(epochs=3, ema=0.9)
    next(begun.epochs())
    state = loads(dumps(begun.state_dict()))
    state["generator"] = torch.zeros(16, dtype=torch.uint8)  # as CUDA's: a seed and an offset
    state["rng"]["cuda"] = torch.zeros(16, dtype=torch.uint8)
    found = []
    for _ in range(2):
        training = training_of(epochs=3, ema=0.9)
        training.load_state_dict(loads(dumps(state)))
        assert [record.epoch for record in training.epochs()] == [2, 3]
        found.append(training)
    assert_same_left_of(*found)
    straight = training_of(epochs=3, ema=0.9)
    list(straight.epochs())
    assert not same_of(weights_of(training), weights_of(straight))


def test_a_training_starts_from_the_weights_of_another_its_average_as_well() -> None:
    source = training_of("standard", epochs=1)
    list(source.epochs())
    training = training_of("pgd_at_half", seed=1, ema=0.9)
    training.start_from(weights_of(source))
    assert training.averaged is not None
    for network in (training.model, training.averaged):
        assert same_of(dict(network.state_dict()), weights_of(source))
    assert training.epoch == 0
