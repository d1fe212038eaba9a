"""What only a GPU can show. Runs where torch and numpy are installed; the last two want a study.

`python -m pytest tests/gpu -m gpu -o addopts= -o filterwarnings=` needs no plug-in of pytest.
"""

import copy
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines import PgdAt, Trades
from oat.adversaries import Pgd
from oat.attacks import Attack
from oat.choice import Probe, choose, disagreement
from oat.data import DataConfig, Dataset, Split
from oat.deploy import condition, fold, specialize
from oat.evaluation import evaluate
from oat.execution import Execution, numerics
from oat.method import Method, Oat, Oats
from oat.models import ModelConfig
from oat.probe import seconds_per_step
from oat.recipe import TrainConfig
from oat.training import Training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GPU = torch.device("cuda")
METHODS: list[Method] = [
    Oat(),
    Oat(encoding="continuous", lambda_sampling="uniform"),
    Oats(width_mults=(0.5, 1.0)),
    PgdAt(0.0),
    PgdAt(0.3),
    PgdAt(1.0),
    Trades(6.0),
]
NETWORKS = [ModelConfig("resnet8", 16), ModelConfig("wrn-10-2", 8, dropout=0.3)]


def _dataset(count: int = 256) -> Dataset:
    draw = torch.Generator().manual_seed(1)

    def split(rows: int) -> Split:
        images = torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=draw)
        return Split(images, torch.randint(10, (rows,), generator=draw))

    return Dataset(split(count), split(64), split(64), 10, "made up").to(GPU)


def _training(
    method: Method, network: ModelConfig, execution: Execution | None = None, **settings: Any
) -> Training:
    train = TrainConfig(**{"epochs": 2, "batch_size": 64, "lr": 0.05, "val_every": 2, **settings})
    data, attack = DataConfig("cifar10"), Attack(steps=3)
    return Training(method, network, _dataset(), data, train, attack, seed=3, execution=execution)


def _train(training: Training) -> dict[str, Tensor]:
    for _ in training.epochs():
        pass
    return training.model.state_dict()


def _assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("lam", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_every_form_of_a_network_agrees_with_float64_on_the_cpu(
    network: ModelConfig, lam: float
) -> None:
    training = _training(Oat(film_init="paper"), replace(network, dropout=0.0), precision="float32")
    _train(training)
    model = training.model.eval()
    images = torch.rand(32, 3, 32, 32)
    exact = copy.deepcopy(model).cpu().double()
    with torch.no_grad(), numerics(tf32=False, deterministic=True):
        wanted = exact.logits(images.double(), condition(exact, lam))
        cond, x = condition(model, lam), images.to(GPU)
        for found in (model.logits(x, cond), specialize(model, cond)(x), fold(model, lam)(x)):
            worst = (found.cpu().double() - wanted).abs().max() / wanted.abs().max()
            assert worst < 1e-5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_captured_step_is_the_eager_one_bit_for_bit(
    method: Method, network: ModelConfig, precision: Any
) -> None:
    settings = {"precision": precision, "ema": 0.9, "clip_norm": 1.0}
    captured, eager = (
        _training(method, network, Execution(precision, captured=how), **settings)
        for how in (True, False)
    )
    _assert_equal(_train(captured), _train(eager))
    assert captured.step._graph is not None


def test_a_growing_radius_is_captured_again() -> None:
    captured, eager = (
        _training(Oat(), NETWORKS[0], Execution(captured=how), eps_warmup=2, epochs=4, val_every=4)
        for how in (True, False)
    )
    _assert_equal(_train(captured), _train(eager))


@pytest.mark.parametrize("method", [Oat(batchwise=True), Oat(skip_clean_at_one=True)], ids=str)
def test_what_cannot_be_captured_runs_as_it_is(method: Method) -> None:
    training = _training(method, NETWORKS[0])
    assert not training.execution.captured
    _train(training)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", [Oat(), Oats(width_mults=(0.5, 1.0)), Trades(6.0)], ids=str)
def test_a_training_repeats_and_resumes_bit_for_bit(method: Method, precision: Any) -> None:
    whole, again, first = (_training(method, NETWORKS[0], precision=precision) for _ in range(3))
    wanted = _train(whole)
    _assert_equal(_train(again), wanted)
    next(first.epochs())
    resumed = _training(method, NETWORKS[0], precision=precision)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    _assert_equal(_train(resumed), wanted)


@pytest.mark.parametrize(
    "method", [Oat(), Oats(width_mults=(0.5, 1.0)), PgdAt(1.0), Trades(6.0)], ids=str
)
def test_a_step_by_kernels_is_the_plain_one_within_rounding(method: Method) -> None:
    plain, kernels = (
        _training(method, NETWORKS[0], Execution(compiled=how, captured=how), precision="float32")
        for how in (False, True)
    )
    assert disagreement(plain, kernels) is None


@pytest.mark.parametrize("lr", [0.01, 0.5])
@pytest.mark.parametrize("method", [Oat(), PgdAt(1.0), Trades(6.0)], ids=str)
def test_kernels_are_chosen_at_any_learning_rate(method: Method, lr: float) -> None:
    def make(execution: Execution) -> Training:
        return _training(method, NETWORKS[0], execution, lr=lr)

    train = TrainConfig(epochs=2, batch_size=64, precision="bfloat16", compile=True)
    chosen = choose(Probe(make, train, GPU, True, steps=10**6, units=1.0, flops=1e20))
    assert chosen.compiled, chosen.sentence()
    assert chosen.captured, chosen.sentence()


def test_a_replayed_step_is_another_each_time() -> None:
    training = _training(Oat(), NETWORKS[0], Execution(captured=True))
    losses = []
    endless = training.endless_steps()
    for _ in range(8):
        before = training.step.loss.item()
        next(endless)
        losses.append(training.step.loss.item() - before)
    endless.close()
    assert len(set(losses[2:])) == 6
    assert all(map(math.isfinite, losses))


@pytest.mark.slow
def test_what_is_chosen_runs_and_says_why() -> None:
    def make(execution: Execution) -> Training:
        return _training(Oat(), NETWORKS[0], execution)

    train = TrainConfig(epochs=2, batch_size=64)
    chosen = choose(Probe(make, train, GPU, True, steps=10**6, units=1.0, flops=1e20))
    assert chosen.captured, chosen.sentence()
    assert len(chosen.reasons) == 3
    assert seconds_per_step(make(chosen)) > 0


def test_evaluation_is_that_of_the_cpu() -> None:
    training = _training(PgdAt(1.0), NETWORKS[0], precision="float32", epochs=3, val_every=3)
    _train(training)
    network, attack = fold(training.model, None), Pgd(steps=10, eps=2 / 255)
    split = training.dataset.train
    on_cpu = Split(split.images.cpu(), split.labels.cpu())
    with numerics(tf32=False, deterministic=True):
        ours = evaluate(network, split, attack)
    theirs = evaluate(copy.deepcopy(network).cpu(), on_cpu, attack)
    assert torch.equal(ours.clean, theirs.clean)
    # starts are drawn by generators of their own on each device
    assert abs(ours.ra - theirs.ra) <= 0.02


def test_tf32_is_what_the_setting_says() -> None:
    a, b = torch.randn(256, 256, device=GPU), torch.randn(256, 256, device=GPU)
    exact = a.double() @ b.double()
    worst = {}
    for tf32 in (False, True):
        with numerics(tf32=tf32, deterministic=True):
            worst[tf32] = ((a @ b).double() - exact).abs().max().item()
    assert worst[False] < 1e-3 < worst[True]


def test_a_step_makes_the_gpu_wait_for_nothing() -> None:
    training = _training(Oat(), NETWORKS[0], Execution(captured=True))
    steps = training.endless_steps()
    for _ in islice(steps, 3):
        pass
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        steps.close()


STUDY: dict[str, Any] = {
    "name": "on-a-gpu",
    "data": {"name": "digits", "train_images": 256},
    "model": {"name": "resnet18"},
    "train": {"epochs": 2, "batch_size": 64, "val_images": 32},
    "attack": {"eps": 0.1, "steps": 2},
    "methods": [{"name": "pgd_at", "lam": [0, 1]}],
    "evaluate": {"attacks": [{"name": "pgd", "steps": 2}], "images": 50, "masking_images": 0},
    "resources": {"cpu": 1, "gpu": 0.5},
}


def test_out_of_memory_is_told_as_such(tmp_path: Path) -> None:
    pytest.importorskip("pydantic")
    pytest.importorskip("sklearn")
    from studies.planning.expand import make_plan
    from studies.storage.opening import open_folder
    from studies.study_file.loading import load_study
    from studies.trial.run import run_trial

    folder = open_folder(tmp_path).sub("on-a-gpu")
    trial = make_plan(load_study(STUDY), folder).trials[1]
    job = {**trial.job, "resources": {**trial.job["resources"], "gpu": 1e-3}}
    outcome = run_trial(job, folder.sub(f"trials/{trial.run_key}"), lambda _: None)
    assert (outcome["status"], outcome["kind"]) == ("failed", "out_of_memory")


@pytest.mark.slow
def test_two_trials_share_a_gpu_and_one_without_room_has_more(tmp_path: Path) -> None:
    for package in ("ray", "mlflow", "pydantic", "sklearn"):
        pytest.importorskip(package)
    import studies

    outcome = studies.run(STUDY, storage=tmp_path)
    assert outcome.complete
    assert set(outcome.points["precision"]) <= {"float32", "bfloat16"}
    cramped = {**STUDY, "name": "cramped", "resources": {"cpu": 1, "gpu": 0.002}}
    assert studies.run(cramped, storage=tmp_path).complete
