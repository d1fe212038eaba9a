import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from baselines import PgdAt, Trades
from oat.attacks import Attack
from oat.checkpoint import dumps, loads
from oat.data import DataConfig, Dataset, Split, load
from oat.method import Method, Oat
from oat.models import ModelConfig
from oat.training import DivergenceError, EpochRecord, TrainConfig, Training, steps_per_epoch

DATA = DataConfig("digits", train_images=96, crop=1, flip=True)
TRAIN = TrainConfig(
    epochs=3, batch_size=32, lr=0.05, val_every=2, val_images=16, precision="float32"
)
METHODS: dict[str, Method] = {
    "oat": Oat(lambda_choices=(0.0, 0.3, 1.0), encoding_dim=8),
    "oat_single_bn": Oat(
        lambda_choices=(0.0, 0.3, 1.0), encoding="none", dual_bn=False, film_init="paper"
    ),
    "standard": PgdAt(0.0),
    "pgd_at_half": PgdAt(0.5),
    "pgd_at": PgdAt(1.0),
    "trades": Trades(3.0),
}


def _training(
    method: str = "oat",
    *,
    seed: int = 0,
    dataset: Dataset | None = None,
    data: DataConfig = DATA,
    **train: Any,
) -> Training:
    return Training(
        METHODS[method],
        ModelConfig("resnet8", 2),
        dataset or load(DATA),
        data,
        replace(TRAIN, **train),
        Attack(eps=0.1, steps=2),
        seed=seed,
    )


def _weights(training: Training) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in training.model.state_dict().items()}


def _same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def _result(record: EpochRecord) -> tuple[Any, ...]:
    return (record.epoch, record.train_loss, record.lr, record.sa_val, record.ra_val)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("done", [1, 2])
def test_epochs_in_two_parts_equal_those_at_once_bit_for_bit(method: str, done: int) -> None:
    whole = _training(method)
    expected = [_result(record) for record in whole.epochs()]
    first = _training(method)
    epochs = first.epochs()
    results = [_result(next(epochs)) for _ in range(done)]
    saved = dumps(first.state_dict())
    torch.manual_seed(99)
    second = _training(method, seed=5)
    second.load_state_dict(loads(saved))
    results += [_result(record) for record in second.epochs()]
    assert results == expected
    assert _same(_weights(second), _weights(whole))


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_gives_the_same_weights_and_another_seed_others(method: str) -> None:
    runs = []
    for seed in (0, 0, 1):
        training = _training(method, seed=seed, epochs=1)
        torch.rand(seed + 3)  # what else draws from the global generator must not matter
        list(training.epochs())
        runs.append(_weights(training))
    assert _same(runs[0], runs[1])
    assert not _same(runs[0], runs[2])


def test_validating_more_often_does_not_change_the_weights() -> None:
    often, seldom = _training(val_every=1), _training(val_every=3)
    records = list(often.epochs())
    assert all(record.sa_val is not None for record in records)
    list(seldom.epochs())
    assert _same(_weights(often), _weights(seldom))


def test_network_left_in_eval_mode_between_epochs_is_trained_all_the_same() -> None:
    expected, training = _training(), _training()
    list(expected.epochs())
    for _ in training.epochs():
        training.model.eval()
    assert _same(_weights(training), _weights(expected))


def test_last_epoch_is_validated_whatever_the_interval() -> None:
    records = list(_training(val_every=2).epochs())
    assert [record.epoch for record in records] == [1, 2, 3]
    assert [record.sa_val is None for record in records] == [True, False, False]
    for record in records[1:]:
        assert record.sa_val is not None
        assert record.ra_val is not None
        assert 0 <= record.ra_val <= record.sa_val <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_parameter_is_trained_in_either_precision(method: str, precision: str) -> None:
    training = _training(method, epochs=1, precision=precision, weight_decay=0.0)
    before = _weights(training)
    list(training.epochs())
    after = _weights(training)
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
    training = _training("standard", dataset=dataset, data=still, batch_size=8, epochs=3)
    plain = _training("standard", dataset=dataset, data=still).model.train()
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
    records = list(_training("standard", epochs=5).epochs())
    assert records[-1].train_loss < records[0].train_loss


def test_enormous_learning_rate_diverges_in_the_first_epoch() -> None:
    training = _training("standard", lr=1e38)
    with pytest.raises(DivergenceError, match="epoch 1") as caught:
        list(training.epochs())
    assert caught.value.epoch == 1


@pytest.mark.parametrize("method", METHODS)
def test_loss_that_is_not_finite_raises_with_its_epoch(method: str) -> None:
    training = _training(method)
    epochs = training.epochs()
    next(epochs)
    with torch.no_grad():
        training.model.head.bias.fill_(math.nan)
    with pytest.raises(DivergenceError, match="epoch 2") as caught:
        next(epochs)
    assert caught.value.epoch == 2


def test_divergence_error_crosses_a_process_border() -> None:
    error = pickle.loads(pickle.dumps(DivergenceError(3, math.inf)))
    assert error.epoch == 3
    assert str(error) == str(DivergenceError(3, math.inf))


@pytest.mark.parametrize(
    ("images", "batch", "steps"), [(96, 32, 3), (97, 32, 3), (127, 32, 3), (32, 32, 1), (5, 32, 1)]
)
def test_last_smaller_batch_is_left_out_unless_it_is_the_only_one(
    images: int, batch: int, steps: int
) -> None:
    assert steps_per_epoch(images, batch) == steps


def test_every_image_is_seen_once_in_an_epoch() -> None:
    training = _training("standard", epochs=1, data=replace(DATA, crop=0, flip=False))
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
