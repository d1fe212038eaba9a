"""What the tests of training share."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from baselines import PgdAt, Trades
from oat.attacks import Attack
from oat.data import DataConfig, Dataset, load
from oat.epoch import EpochRecord
from oat.method import Method, Oat, Oats
from oat.models import ModelConfig
from oat.recipe import TrainConfig
from oat.training import Training

DATA = DataConfig("digits", train_images=96, crop=1, flip=True)

TRAIN = TrainConfig(
    epochs=3, batch_size=32, lr=0.05, val_every=2, val_images=16, precision="float32"
)

MODEL = ModelConfig("resnet8", 2)

WIDE = ModelConfig("wrn-10-1", 2, dropout=0.3)

METHODS: dict[str, Method] = {
    "oat": Oat(lambda_choices=(0.0, 0.3, 1.0), encoding_dim=8),
    "oat_single_bn": Oat(
        lambda_choices=(0.0, 0.3, 1.0), encoding="none", dual_bn=False, film_init="paper"
    ),
    "standard": PgdAt(0.0),
    "pgd_at_half": PgdAt(0.5),
    "pgd_at": PgdAt(1.0),
    "trades": Trades(3.0),
    "oats": Oats(lambda_choices=(0.0, 0.3, 1.0), encoding_dim=8, width_mults=(0.5, 1.0)),
    "oats_heads": Oats(
        lambda_choices=(0.0, 1.0),
        lambda_sampling="steep",
        encoding="continuous",
        encoding_dim=8,
        skip_clean_at_one=True,
        width_mults=(0.5, 1.0),
        head_per_width=True,
    ),
    "pgd_at_narrow": PgdAt(0.5, 0.5),
    "trades_narrow": Trades(3.0, 0.5),
}


def training_of(
    method: str | Method = "oat",
    *,
    seed: int = 0,
    dataset: Dataset | None = None,
    data: DataConfig = DATA,
    model: ModelConfig = MODEL,
    **train: Any,
) -> Training:
    return Training(
        METHODS[method] if isinstance(method, str) else method,
        model,
        dataset or load(DATA),
        data,
        replace(TRAIN, **train),
        Attack(eps=0.1, steps=2),
        seed=seed,
    )


def weights_of(training: Training) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in training.model.state_dict().items()}


def same_of(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def result_of(record: EpochRecord) -> tuple[Any, ...]:
    return (record.epoch, record.train_loss, record.lr, record.sa_val, record.ra_val)


EVERYTHING: dict[str, Any] = {
    "schedule": "onecycle",
    "label_smoothing": 0.1,
    "eps_warmup": 2,
    "clip_norm": 1.0,
    "ema": 0.9,
    "val_every": 1,
}


def left_of(training: Training) -> dict[str, tuple[int, dict[str, Tensor]]]:
    return {
        rule: (kept.epoch, {key: value.clone() for key, value in kept.state.items()})
        for rule, kept in training.kept().items()
    }


def assert_same_left_of(left: Training, right: Training) -> None:
    ours, theirs = left_of(left), left_of(right)
    assert ours.keys() == theirs.keys()
    for rule, (epoch, state) in ours.items():
        assert epoch == theirs[rule][0], rule
        assert same_of(state, theirs[rule][1]), rule
