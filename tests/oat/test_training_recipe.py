import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from baselines import PgdAt
from oat.adversaries import Pgd
from oat.attacks import Attack
from oat.checkpoint import dumps
from oat.data import Dataset, Split
from oat.deploy import fold
from oat.evaluation import evaluate
from oat.models import Network
from oat.recipe import STATISTICS_BATCHES, TrainConfig, images_seen
from tests.oat.trainings import (
    DATA,
    EVERYTHING,
    MODEL,
    WIDE,
    assert_same_left_of,
    left_of,
    result_of,
    same_of,
    training_of,
    weights_of,
)


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


@given(epochs=st.integers(2, 200), percent=st.integers(1, 99))
@example(epochs=25, percent=28)
@example(epochs=50, percent=14)
def test_the_rate_has_dropped_from_the_first_milestone_on(epochs: int, percent: int) -> None:
    config = TrainConfig(epochs=epochs, schedule="multistep", milestones=(percent / 100,))
    rates = [config.lr_at(epoch) for epoch in range(epochs)]
    assert config.drop_epoch() == sum(rate == config.lr for rate in rates)


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
    training = training_of("standard", schedule=schedule)
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
    training = training_of(
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
    training = training_of(
        method, clip_norm=1e-3, momentum=0.0, weight_decay=0.0, batch_size=96, epochs=1
    )
    before = [p.detach().clone() for p in training.model.parameters()]
    list(training.epochs())
    after = list(training.model.parameters())
    changes = zip(after, before, strict=True)
    moved = math.sqrt(sum((a.double() - b.double()).square().sum().item() for a, b in changes))
    assert 0.9 * 0.05 * 1e-3 < moved <= 0.05 * 1e-3 * 1.01  # weights are rounded to float32


def test_clipping_at_a_norm_that_is_never_reached_changes_nothing() -> None:
    free, clipped = training_of("oats"), training_of("oats", clip_norm=1e9)
    list(free.epochs())
    list(clipped.epochs())
    assert same_of(weights_of(free), weights_of(clipped))


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
    training = training_of(method, eps_warmup=2, label_smoothing=0.2, ema=0.5)
    list(training.epochs())
    radii = [0.05, 0.1, 0.1]
    assert method.seen == [(eps, 0.2) for eps in radii for _ in range(3)]
    method.seen.clear()
    training.kept()
    assert method.seen == [(0.1, 0.2)] * 3  # statistics for the averaged weights


@pytest.mark.parametrize("method", ["oats_heads", "pgd_at_narrow"])
@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_averaged_weights_are_those_of_a_loop_written_by_hand(method: str, decay: float) -> None:
    training = training_of(method, ema=decay, momentum=0.5)
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
    training = training_of("standard", ema=0.7, data=STILL, model=MODEL)
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
    training = training_of(
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
    quiet = training_of(method, **settings)
    expected = [result_of(record) for record in quiet.epochs()]
    training = training_of(method, **settings)
    results = []
    for record in training.epochs():
        results.append(result_of(record))
        before = dumps({**training.state_dict(), "device_seconds": 0.0})
        modes = [module.training for module in training.model.modules()]
        first = left_of(training)
        assert dumps({**training.state_dict(), "device_seconds": 0.0}) == before
        assert [module.training for module in training.model.modules()] == modes
        assert all(norm.momentum == 0.1 for norm in _norms(training.model).values())
        again = left_of(training)
        assert all(same_of(first[rule][1], again[rule][1]) for rule in first)
    assert results == expected
    assert_same_left_of(training, quiet)


def test_averaged_weights_do_not_change_the_training_that_they_follow() -> None:
    with_average, without = training_of("oats", ema=0.9), training_of("oats")
    assert [result_of(r) for r in with_average.epochs()] == [result_of(r) for r in without.epochs()]
    assert same_of(weights_of(with_average), weights_of(without))
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
    training = training_of("oats", val_every=1, ema=0.9)
    weights = []
    for _ in training.epochs():
        weights.append(weights_of(training))
    kept = training.kept()
    assert kept["chosen"].epoch == chosen
    assert same_of(kept["chosen"].state, weights[chosen - 1])
    assert kept["last"].epoch == kept["averaged"].epoch == 3
    assert same_of(kept["last"].state, weights[-1])
    live = {value.data_ptr() for value in training.model.state_dict().values()}
    assert not live & {value.data_ptr() for value in kept["chosen"].state.values()}
    assert not live & {value.data_ptr() for value in kept["averaged"].state.values()}


def test_chosen_weights_score_on_validation_what_the_record_says() -> None:
    training = training_of("oats", val_every=1, epochs=4)
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
    training = training_of("standard", epochs=3, val_every=2)
    list(training.epochs())
    assert training.kept()["chosen"].epoch == 2


@pytest.mark.parametrize(("images", "batch"), [(96, 32), (20, 32), (120, 2)])
def test_images_that_a_training_passes_over_are_counted(images: int, batch: int) -> None:
    config = TrainConfig(epochs=3, batch_size=batch)
    steps = max(1, images // batch)
    size = min(images, batch)
    assert images_seen(config, images) == (3 * steps * size, 0)
    own = min(STATISTICS_BATCHES, steps) * size
    assert images_seen(replace(config, ema=0.9), images) == (3 * steps * size, own)


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
