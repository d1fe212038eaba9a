import copy
import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from baselines import PgdAt, Trades
from oat.adversaries import Pgd
from oat.attacks import Attack
from oat.checkpoint import dumps, loads
from oat.data import DataConfig, Dataset, Split, load
from oat.deploy import fold
from oat.evaluation import evaluate
from oat.method import Method, Oat, Oats
from oat.models import ModelConfig, Network
from oat.recipe import STATISTICS_BATCHES, TrainConfig, images_seen, steps_per_epoch
from oat.training import DivergenceError, EpochRecord, Training

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


def _training(
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
    # batch norm takes the scale out of a convolution from one channel to one, so let there be two
    wide = ModelConfig("resnet8", 4)
    training = _training(method, model=wide, epochs=1, precision=precision, weight_decay=0.0)
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


EVERYTHING: dict[str, Any] = {
    "schedule": "onecycle",
    "label_smoothing": 0.1,
    "eps_warmup": 2,
    "clip_norm": 1.0,
    "ema": 0.9,
    "val_every": 1,
}


def _left(training: Training) -> dict[str, tuple[int, dict[str, Tensor]]]:
    return {
        rule: (kept.epoch, {key: value.clone() for key, value in kept.state.items()})
        for rule, kept in training.kept().items()
    }


def _assert_same_left(left: Training, right: Training) -> None:
    ours, theirs = _left(left), _left(right)
    assert ours.keys() == theirs.keys()
    for rule, (epoch, state) in ours.items():
        assert epoch == theirs[rule][0], rule
        assert _same(state, theirs[rule][1]), rule


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
    whole = _training(method, model=model, **EVERYTHING)
    saves = [dumps(whole.state_dict())]
    expected = []
    for record in whole.epochs():
        expected.append(_result(record))
        saves.append(dumps(whole.state_dict()))
    for done, saved in enumerate(saves):
        torch.manual_seed(99)
        resumed = _training(method, model=model, seed=5, **EVERYTHING)
        resumed.seed = whole.seed  # a study resumes with the seed it began with
        resumed.load_state_dict(loads(saved))
        assert [_result(record) for record in resumed.epochs()] == expected[done:]
        assert _same(_weights(resumed), _weights(whole))
        _assert_same_left(resumed, whole)


def test_oats_at_the_single_width_one_trains_like_oat_bit_for_bit() -> None:
    oat, oats = (
        _training(
            kind(lambda_choices=(0.0, 0.3, 1.0), encoding_dim=8, **more), model=WIDE, **EVERYTHING
        )
        for kind, more in ((Oat, {}), (Oats, {"width_mults": (1.0,)}))
    )
    records = []
    for training in (oat, oats):
        torch.manual_seed(4)  # dropout draws from the global generator
        records.append([_result(record) for record in training.epochs()])
    assert records[0] == records[1]
    _assert_same_left(oats, oat)


@pytest.mark.parametrize("method", ["oat", "pgd_at_half"])
def test_trainings_that_take_turns_do_not_change_each_other(method: str) -> None:
    # dropout draws from torch's global generator, of which a training must have one of its own
    alone = _training(method, model=WIDE, epochs=2)
    expected = [record.train_loss for record in alone.epochs()]
    first, second = (_training(method, model=WIDE, epochs=2) for _ in range(2))
    turns = list(zip(first.epochs(), second.epochs(), strict=True))
    assert [record.train_loss for record, _ in turns] == expected
    assert [record.train_loss for _, record in turns] == expected


def test_loading_the_state_of_a_beginning_forgets_the_best_epoch_so_far() -> None:
    expected = _training(val_every=3)
    list(expected.epochs())
    training = _training(val_every=3)
    beginning = dumps(training.state_dict())
    list(training.epochs())
    assert training.best is not None
    training.best = (2.0, replace(training.best[1], epoch=77))  # better than any real score
    training.load_state_dict(loads(beginning))
    list(training.epochs())
    assert training.kept()["chosen"].epoch == expected.kept()["chosen"].epoch == 3


@given(epochs=st.integers(1, 40), places=st.lists(st.integers(1, 39), max_size=3, unique=True))
def test_multistep_schedule_is_torchs(epochs: int, places: list[int]) -> None:
    places = sorted(place for place in places if place < epochs)
    config = TrainConfig(
        epochs=epochs,
        lr=0.3,
        schedule="multistep",
        milestones=tuple(place / epochs for place in places),
        gamma=0.2,
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, places, gamma=0.2)
    for epoch in range(epochs):
        assert config.lr_at(epoch) == pytest.approx(schedule.get_last_lr()[0])
        assert config.lr_at(epoch + 0.999) == config.lr_at(epoch)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(("epochs", "steps"), [(10, 7), (3, 30), (40, 1), (200, 2)])
def test_onecycle_schedule_is_torchs_to_within_a_step(epochs: int, steps: int) -> None:
    total = epochs * steps
    config = TrainConfig(epochs=epochs, lr=0.3, schedule="onecycle")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=total, cycle_momentum=False
    )
    # torch's phases end one step earlier, and it falls to lr / 25e4; the steepest rise of a
    # cosine over 30 % of the steps is 0.3 · π / 2 / (0.3 · total) a step
    tolerance = 0.3 * math.pi / 2 / (0.3 * total) * 1.1 + 1e-5
    for step in range(total):
        ours = config.lr_at(step // steps + step % steps / steps)
        assert ours == pytest.approx(schedule.get_last_lr()[0], abs=tolerance)
        if step < total - 1:
            optimizer.step()
            schedule.step()


def test_onecycle_starts_at_a_25th_peaks_at_30_percent_and_ends_at_zero() -> None:
    config = TrainConfig(epochs=10, lr=0.5, schedule="onecycle")
    assert config.lr_at(0) == pytest.approx(0.02)
    assert config.lr_at(3) == pytest.approx(0.5)
    assert config.lr_at(10) == pytest.approx(0, abs=1e-12)
    rates = [config.lr_at(i / 100) for i in range(1001)]
    assert rates[:301] == sorted(rates[:301])
    assert rates[300:] == sorted(rates[300:], reverse=True)
    assert max(rates) <= 0.5 + 1e-12


@pytest.mark.parametrize("schedule", ["cosine", "multistep", "onecycle", "constant"])
def test_optimiser_steps_at_the_rate_of_the_schedule(schedule: str) -> None:
    training = _training("standard", schedule=schedule)
    used: list[float] = []
    training.optimizer.register_step_pre_hook(
        lambda optimizer, _args, _kwargs: used.append(optimizer.param_groups[0]["lr"])
    )
    records = list(training.epochs())
    lr_at = training.config.lr_at
    assert used == [lr_at(epoch + step / 3) for epoch in range(3) for step in range(3)]
    assert [record.lr for record in records] == [lr_at(epoch) for epoch in range(3)]


def _still(count: int = 8) -> Dataset:
    """Make images of one batch, whose order matters by rounding only."""
    source = torch.Generator().manual_seed(4)
    images = torch.rand(count, 1, 8, 8, generator=source)
    split = Split(images, torch.arange(count) % 4)
    return Dataset(split, split, split, 4, "0" * 12)


STILL = replace(DATA, crop=0, flip=False)


def test_label_smoothing_takes_the_steps_of_a_plain_loop_with_torchs() -> None:
    dataset = _still()
    training = _training(
        "standard", dataset=dataset, data=STILL, batch_size=8, label_smoothing=0.3, clip_norm=0.5
    )
    plain = copy.deepcopy(training.model).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for record in training.epochs():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(
            plain(dataset.train.images), dataset.train.labels, label_smoothing=0.3
        )
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        assert record.train_loss == pytest.approx(loss.item(), rel=1e-4)
    expected = plain.state_dict()
    for key, value in training.model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["oats", "trades"])
def test_a_step_moves_the_weights_by_the_rate_times_the_clipped_norm_at_most(method: str) -> None:
    training = _training(
        method, clip_norm=1e-3, momentum=0.0, weight_decay=0.0, batch_size=96, epochs=1
    )
    before = [p.detach().clone() for p in training.model.parameters()]
    list(training.epochs())
    after = list(training.model.parameters())
    changes = zip(after, before, strict=True)
    moved = math.sqrt(sum((a.double() - b.double()).square().sum().item() for a, b in changes))
    assert 0.9 * 0.05 * 1e-3 < moved <= 0.05 * 1e-3 * 1.01  # weights are rounded to float32


def test_clipping_at_a_norm_that_is_never_reached_changes_nothing() -> None:
    free, clipped = _training("oats"), _training("oats", clip_norm=1e9)
    list(free.epochs())
    list(clipped.epochs())
    assert _same(_weights(free), _weights(clipped))


@given(
    eps=st.floats(0, 1),
    share=st.one_of(st.none(), st.floats(1e-3, 2)),
    warmup=st.integers(0, 12),
)
def test_radius_grows_by_as_much_each_epoch_to_the_full_one(
    eps: float, share: float | None, warmup: int
) -> None:
    step: Any = "auto" if share is None or eps < 1e-100 else share * eps
    attack = Attack(eps=eps, steps=3, step_size=step)
    config = TrainConfig(epochs=12, eps_warmup=warmup)
    for epoch in range(12):
        now = config.attack_at(epoch, attack)
        grown = min(1, (epoch + 1) / warmup) if warmup else 1
        assert now.eps == pytest.approx(grown * eps)
        assert now.steps == 3
        if step == "auto":
            assert now.step_size == "auto"
        else:
            assert now.step_size == pytest.approx(grown * step)
        if epoch + 1 >= warmup:
            assert now == attack


@dataclass(frozen=True)
class Watched(PgdAt):
    """PGD-AT that writes down what the loop hands it."""

    seen: list[tuple[float, float]] = field(default_factory=list)

    def losses(
        self,
        model: Network,
        images: Tensor,
        labels: Tensor,
        *,
        attack: Attack,
        generator: torch.Generator,
        label_smoothing: float = 0.0,
    ) -> Iterator[Tensor]:
        self.seen.append((attack.eps, label_smoothing))
        return super().losses(
            model,
            images,
            labels,
            attack=attack,
            generator=generator,
            label_smoothing=label_smoothing,
        )


def test_training_hands_the_warmed_up_attack_and_the_smoothing_to_the_method() -> None:
    method = Watched(0.5)
    training = _training(method, eps_warmup=2, label_smoothing=0.2, ema=0.5)
    list(training.epochs())
    radii = [0.05, 0.1, 0.1]
    assert method.seen == [(eps, 0.2) for eps in radii for _ in range(3)]
    method.seen.clear()
    training.kept()
    assert method.seen == [(0.1, 0.2)] * 3  # statistics for the averaged weights


@pytest.mark.parametrize("method", ["oats_heads", "pgd_at_narrow"])
@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_averaged_weights_are_those_of_a_loop_written_by_hand(method: str, decay: float) -> None:
    training = _training(method, ema=decay, momentum=0.5)
    weights: list[list[Tensor]] = []
    training.optimizer.register_step_post_hook(
        lambda *_: weights.append([p.detach().double() for p in training.model.parameters()])
    )
    list(training.epochs())
    assert len(weights) == 9
    average = weights[0]
    for t, current in enumerate(weights[1:], start=1):
        now = min(decay, (1 + t) / (10 + t))
        average = [now * a + (1 - now) * w for a, w in zip(average, current, strict=True)]
    kept = training.kept()["averaged"].state
    for (key, _), expected in zip(training.model.named_parameters(), average, strict=True):
        torch.testing.assert_close(kept[key].double(), expected, rtol=1e-5, atol=1e-6, msg=key)


def _norms(network: Network) -> dict[str, nn.BatchNorm2d]:
    return {k: m for k, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}


def test_averaged_statistics_are_the_plain_mean_over_the_batches_of_the_averaged_network() -> None:
    training = _training("standard", ema=0.7, data=STILL, model=MODEL)
    list(training.epochs())
    assert training.averaged is not None
    network = copy.deepcopy(training.averaged)
    network.train()
    images = training.dataset.train.images
    order = torch.randperm(96, generator=torch.Generator().manual_seed(training.seed))
    batches = []
    for rows in order.split(32):
        for norm in _norms(network).values():
            norm.momentum = 1.0  # the statistics of this batch alone
        network(images[rows] if images.is_floating_point() else images[rows].float() / 255)
        batches.append({k: v.clone() for k, v in network.state_dict().items() if "running" in k})
    kept = training.kept()["averaged"].state
    for key in batches[0]:
        mean = torch.stack([batch[key].double() for batch in batches]).mean(0)
        torch.testing.assert_close(kept[key].double(), mean, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("method", ["standard", "oats"])
def test_averaged_network_whose_weights_did_not_move_has_the_statistics_of_its_data(
    method: str,
) -> None:
    # a rate below the rounding of every weight
    training = _training(
        method, ema=0.9, lr=1e-38, weight_decay=0.0, momentum=0.0, data=STILL, batch_size=96
    )
    before = {key: p.detach().clone() for key, p in training.model.named_parameters()}
    list(training.epochs())
    kept = training.kept()["averaged"].state
    moved = [key for key, value in before.items() if not torch.equal(kept[key], value)]
    # a bias of 0 moves by 1e-38 times its gradient
    assert all(kept[key].sub(before[key]).abs().max() < 1e-30 for key in moved)
    images = training.dataset.train.images
    images = images if images.is_floating_point() else images.float() / 255
    features = nn.functional.conv2d(images, kept["stem.conv.weight"], padding=1)
    if method == "standard":
        flat = features.transpose(0, 1).flatten(1)
        mean, var = kept["stem.norm.bn.0.running_mean"], kept["stem.norm.bn.0.running_var"]
        torch.testing.assert_close(mean, flat.mean(1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(var, flat.var(1), rtol=1e-4, atol=1e-6)
        return
    # one batch: at each width the clean branch sees the 32 rows with λ = 0 and those alone
    rows = torch.randperm(96, generator=torch.Generator().manual_seed(training.seed))[:32]
    for place, channels in ((0, 1), (1, 2)):
        flat = features[rows, :channels].transpose(0, 1).flatten(1)
        name = f"stem.norm.bn.{place}.clean.running"
        torch.testing.assert_close(kept[f"{name}_mean"], flat.mean(1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(kept[f"{name}_var"], flat.var(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["oats", "trades_narrow"])
def test_taking_the_weights_changes_nothing_of_the_training(method: str) -> None:
    settings = {**EVERYTHING, "model": WIDE}
    quiet = _training(method, **settings)
    expected = [_result(record) for record in quiet.epochs()]
    training = _training(method, **settings)
    results = []
    for record in training.epochs():
        results.append(_result(record))
        before = dumps({**training.state_dict(), "device_seconds": 0.0})
        modes = [module.training for module in training.model.modules()]
        first = _left(training)
        assert dumps({**training.state_dict(), "device_seconds": 0.0}) == before
        assert [module.training for module in training.model.modules()] == modes
        assert all(norm.momentum == 0.1 for norm in _norms(training.model).values())
        again = _left(training)
        assert all(_same(first[rule][1], again[rule][1]) for rule in first)
    assert results == expected
    _assert_same_left(training, quiet)


def test_averaged_weights_do_not_change_the_training_that_they_follow() -> None:
    with_average, without = _training("oats", ema=0.9), _training("oats")
    assert [_result(r) for r in with_average.epochs()] == [_result(r) for r in without.epochs()]
    assert _same(_weights(with_average), _weights(without))
    assert set(without.kept()) == {"last", "chosen"} == set(without.config.rules())
    assert set(with_average.kept()) == {"last", "averaged", "chosen"}
    assert set(with_average.config.rules()) == set(with_average.kept())


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([(0.5, 0.25), (0.75, 0.0), (0.375, 0.375)], 1),
        ([(0.2, 0.1), (0.9, 0.0), (0.4, 0.6)], 3),
        ([(0.0, 0.0), (0.0, 0.0), (0.0, 0.0)], 1),
        ([(0.1, 0.1), (0.5, 0.5), (0.4, 0.5)], 2),
    ],
)
def test_chosen_is_the_first_epoch_with_the_best_mean_of_both_accuracies(
    scores: list[tuple[float, float]], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(scores)
    monkeypatch.setattr("oat.training.validate", lambda *_args: next(left))
    training = _training("oats", val_every=1, ema=0.9)
    weights = []
    for _ in training.epochs():
        weights.append(_weights(training))
    kept = training.kept()
    assert kept["chosen"].epoch == chosen
    assert _same(kept["chosen"].state, weights[chosen - 1])
    assert kept["last"].epoch == kept["averaged"].epoch == 3
    assert _same(kept["last"].state, weights[-1])
    live = {value.data_ptr() for value in training.model.state_dict().values()}
    assert not live & {value.data_ptr() for value in kept["chosen"].state.values()}
    assert not live & {value.data_ptr() for value in kept["averaged"].state.values()}


def test_chosen_weights_score_on_validation_what_the_record_says() -> None:
    training = _training("oats", val_every=1, epochs=4)
    records = list(training.epochs())
    scores = [0.5 * (r.sa_val + r.ra_val) for r in records if r.sa_val is not None]  # type: ignore[operator]
    kept = training.kept()["chosen"]
    assert kept.epoch == 1 + scores.index(max(scores))
    network = copy.deepcopy(training.model)
    network.load_state_dict(kept.state)
    split = training.dataset.val.head(16)
    attack = Pgd(steps=2, eps=0.1)
    points = [(lam, width) for lam in (0.0, 0.3, 1.0) for width in (0.5, 1.0)]
    results = [evaluate(fold(network, *point), split, attack) for point in points]
    mean = sum(0.5 * (result.sa + result.ra) for result in results) / len(results)
    assert mean == pytest.approx(max(scores))


def test_epochs_that_are_not_validated_are_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oat.training.validate", lambda *_args: (0.5, 0.5))
    training = _training("standard", epochs=3, val_every=2)
    list(training.epochs())
    assert training.kept()["chosen"].epoch == 2


@pytest.mark.parametrize(("images", "batch"), [(96, 32), (20, 32), (120, 2)])
def test_images_that_a_training_passes_over_are_counted(images: int, batch: int) -> None:
    config = TrainConfig(epochs=3, batch_size=batch)
    steps = max(1, images // batch)
    size = min(images, batch)
    assert images_seen(config, images) == 3 * steps * size
    own = min(STATISTICS_BATCHES, steps) * size
    assert images_seen(replace(config, ema=0.9), images) == 3 * steps * size + own


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("milestones", (0.0,)),
        ("milestones", (0.5, 1.0)),
        ("milestones", (math.nan,)),
        ("gamma", 0.0),
        ("gamma", 1.0),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("label_smoothing", math.nan),
        ("eps_warmup", -1),
        ("eps_warmup", 201),
        ("clip_norm", 0.0),
        ("clip_norm", math.inf),
        ("clip_norm", math.nan),
        ("ema", 0.0),
        ("ema", 1.0),
        ("ema", math.nan),
        ("lr", math.inf),
        ("weight_decay", math.inf),
        ("momentum", math.nan),
    ],
)
def test_new_switches_refuse_values_out_of_range_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"`{key}`"):
        TrainConfig(**{key: value})  # type: ignore[arg-type]
