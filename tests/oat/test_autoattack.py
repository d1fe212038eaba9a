import logging
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from oat.adversaries import EVALUATION_SEED, AutoAttack, Square
from oat.autoattack import STAGES, Ensemble, check_installed
from oat.data import Split
from oat.evaluation import Correctness, evaluate
from studies.storage.local import LocalFolder
from studies.trial.records import JudgingProgress

ATTACK = AutoAttack(eps=0.05, targets=4)


class Counted(nn.Module):
    """A network of five classes that counts its calls, and can die at one of them."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(4)
        self.hidden = nn.Parameter(torch.randn(16, 9, generator=source), requires_grad=False)
        self.out = nn.Parameter(torch.randn(5, 16, generator=source), requires_grad=False)
        self.calls = 0
        self.dies_at = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        x = images.flatten(1)
        hidden = (x[:, None] * self.hidden).sum(-1).sub(0.5).tanh()
        return (hidden[:, None] * self.out).sum(-1)


def _split(network: Callable[[Tensor], Tensor], count: int = 12) -> Split:
    """Make images of which a network gets five in six right."""
    images = torch.rand(count, 1, 3, 3, generator=torch.Generator().manual_seed(6))
    labels = network(images).argmax(dim=1)
    labels[::6] = (labels[::6] + 1) % 5
    return Split(images, labels)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cut the stages down to a few steps; list those that are run."""
    stages: list[str] = []
    make = Ensemble._make

    def made(self: Ensemble, stage: str) -> Any:
        stages.append(stage)
        attack = make(self, stage)
        attack.apgd.n_iter = attack.apgd.n_iter_orig = 4
        attack.apgd_targeted.n_iter = attack.apgd_targeted.n_iter_orig = 4
        attack.fab.n_iter = 3
        attack.square.n_queries = 20
        return attack

    monkeypatch.setattr(Ensemble, "_make", made)
    return stages


@pytest.mark.slow
def test_it_is_the_standard_version_of_the_package() -> None:
    network = Counted()
    split = _split(network)
    theirs = pyautoattack.AutoAttack(network, eps=0.05, seed=EVALUATION_SEED, device="cpu")
    assert tuple(theirs.attacks_to_run) == STAGES
    theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = 4
    _, predicted = theirs.run_standard_evaluation(split.images, split.labels, batch_size=12)
    result = evaluate(network, split, ATTACK)
    assert torch.equal(result.robust, predicted == split.labels)
    assert 0 < result.ra < result.sa


def test_square_alone_is_that_of_the_package() -> None:
    network = Counted()
    split = _split(network, 60)
    right = (network(split.images).argmax(dim=1) == split.labels).nonzero().squeeze(1)
    theirs = pyautoattack.AutoAttack(network, eps=0.05, seed=EVALUATION_SEED, device="cpu")
    theirs.attacks_to_run = ["square"]
    theirs.square.n_queries = 50
    found, _ = theirs.run_standard_evaluation(split.images[right], split.labels[right])
    result = evaluate(network, split, Square(eps=0.05, queries=50))
    robust = torch.zeros(60, dtype=torch.bool)
    robust[right] = network(found).argmax(dim=1) == split.labels[right]
    assert torch.equal(result.robust, robust)
    assert 0 < result.ra < result.sa
    assert result.warnings == ()


def test_square_asks_no_more_often_than_it_is_allowed_to() -> None:
    calls = []
    for queries in (20, 60):
        network = Counted()
        evaluate(network, _split(network), Square(eps=0.01, queries=queries))
        calls.append(network.calls)
    assert calls[1] - calls[0] <= 40
    assert calls[0] < calls[1]


def test_stages_run_in_order_on_each_batch(short: list[str]) -> None:
    network = Counted()
    result = evaluate(network, _split(network), ATTACK, batch_size=6)
    assert short == [*STAGES, *STAGES]
    assert 0 < result.ra < result.sa


def test_images_that_are_broken_or_wrong_are_not_attacked_again(
    short: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Counted()
    split = _split(network)
    counts: list[int] = []
    broken_by = Ensemble._broken_by

    def counted(self: Ensemble, stage: str, images: Tensor, labels: Tensor, alive: Any) -> Any:
        counts.append(len(alive))
        return broken_by(self, stage, images, labels, alive)

    monkeypatch.setattr(Ensemble, "_broken_by", counted)
    result = evaluate(network, split, ATTACK)
    assert counts[0] == int(result.clean.sum())
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= int(result.robust.sum())
    wrong = Split(split.images, (network(split.images).argmax(dim=1) + 1) % 5)
    short.clear()
    assert evaluate(network, wrong, ATTACK).ra == 0
    assert short == []


class Killed(JudgingProgress):
    """Die after so many states have been written."""

    left = 0

    def write(self, state: dict[str, Any]) -> None:
        super().write(state)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path)


def _judge(
    folder: LocalFolder, network: Counted, *, killed: int = 0, judgement: str = "this"
) -> Correctness:
    progress = Killed(folder, "point", judgement)
    progress.left = killed
    return evaluate(network, _split(network), ATTACK, batch_size=6, progress=progress)


@pytest.mark.parametrize("killed", range(1, 9))
def test_killed_between_two_stages_it_runs_only_those_that_were_left(
    killed: int, short: list[str], folder: LocalFolder
) -> None:
    network = Counted()
    whole = evaluate(network, _split(network), ATTACK, batch_size=6)
    short.clear()
    with pytest.raises(KeyboardInterrupt):
        _judge(folder, network, killed=killed)
    assert short == [*STAGES, *STAGES][:killed]
    short.clear()
    again = _judge(folder, network)
    assert short == [*STAGES, *STAGES][killed:]
    assert torch.equal(again.clean, whole.clean)
    assert torch.equal(again.robust, whole.robust)
    assert again.warnings == whole.warnings
    short.clear()
    before = network.calls
    assert torch.equal(_judge(folder, network).robust, whole.robust)
    assert short == []
    assert network.calls - before == 5  # of the labels of `_split`, each clean batch, its gradient


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_killed_within_a_stage_it_begins_that_stage_again(
    share: float, short: list[str], folder: LocalFolder
) -> None:
    network = Counted()
    whole = evaluate(network, _split(network), ATTACK, batch_size=6)
    network.dies_at, network.calls = int(share * network.calls), 0
    short.clear()
    with pytest.raises(KeyboardInterrupt):
        _judge(folder, network)
    done = len(short) - 1
    network.dies_at = 0
    short.clear()
    again = _judge(folder, network)
    assert short == [*STAGES, *STAGES][done:]
    assert torch.equal(again.robust, whole.robust)
    assert again.warnings == whole.warnings


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "no object": lambda data: b"[]",
    "a digit": lambda data: data.replace(b'"images": 6', b'"images": 7'),
    "an image less": lambda data: data.replace(b"1,", b"", 1),
    "no state": lambda data: b'{"judgement": "this"}',
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_state_is_made_anew(kind: str, short: list[str], folder: LocalFolder) -> None:
    network = Counted()
    whole = evaluate(network, _split(network), ATTACK, batch_size=6)
    with pytest.raises(KeyboardInterrupt):
        _judge(folder, network, killed=6)
    kept = folder.read("judging-point.json")
    damaged = DAMAGE[kind](kept)
    assert damaged != kept
    folder.write("judging-point.json", damaged)
    short.clear()
    assert torch.equal(_judge(folder, network).robust, whole.robust)
    assert short == [*STAGES, *STAGES]


def test_the_state_of_another_judgement_is_ignored(short: list[str], folder: LocalFolder) -> None:
    network = Counted()
    _judge(folder, network, judgement="of other weights")
    short.clear()
    result = _judge(folder, network)
    assert short == [*STAGES, *STAGES]
    assert torch.equal(result.robust, _judge(folder, network).robust)


class Odd(Counted):
    """The same with something AutoAttack warns of, as a name says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        match self.kind:
            case "probabilities":
                return logits.softmax(dim=1)
            case "no gradient":
                return (8 * logits).round() + 0 * logits
            case "noisy":
                return logits + 0.1 * torch.randn_like(logits)
            case "dynamic":
                with torch.enable_grad():
                    x = images.detach().requires_grad_()
                    torch.autograd.grad(super().forward(x).sum(), x)
        return logits


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("probabilities", "the output is a probability distribution"),
        ("no gradient", "points with zero gradient"),
        ("noisy", "randomized defense"),
        ("dynamic", "dynamic defense"),
    ],
)
def test_what_the_package_warns_of_is_recorded_once(
    kind: str, said: str, short: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    network = Odd(kind)
    split = _split(network)
    with caplog.at_level(logging.WARNING):
        result = evaluate(network, split, ATTACK, batch_size=6)
    found = [sentence for sentence in result.warnings if said in sentence]
    assert len(found) == 1, result.warnings
    assert found[0].startswith("AutoAttack: ")
    assert "flags_doc" not in found[0]
    assert not caplog.records, "nothing of it goes anywhere else"


def test_an_honest_network_is_not_warned_of(short: list[str]) -> None:
    network = Counted()
    assert evaluate(network, _split(network), ATTACK, batch_size=6).warnings == ()


def test_a_warning_of_one_network_is_none_of_the_next(short: list[str]) -> None:
    odd, honest = Odd("dynamic"), Counted()
    assert evaluate(odd, _split(odd), ATTACK).warnings
    assert evaluate(honest, _split(honest), ATTACK).warnings == ()


def test_warnings_of_before_a_kill_are_kept(short: list[str], folder: LocalFolder) -> None:
    network = Odd("no gradient")
    whole = evaluate(network, _split(network), ATTACK, batch_size=6)
    with pytest.raises(KeyboardInterrupt):
        _judge(folder, network, killed=7)
    assert _judge(folder, network).warnings == whole.warnings


def test_one_image_that_square_breaks_is_no_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_by(self: Ensemble, stage: str, images: Tensor, labels: Tensor, alive: Any) -> Any:
        return alive[1:] if stage == STAGES[3] else alive

    monkeypatch.setattr(Ensemble, "_broken_by", broken_by)
    network = Odd("no gradient")
    assert evaluate(network, _split(network, 24), ATTACK, batch_size=24).warnings == ()
    assert len(evaluate(network, _split(network, 24), ATTACK, batch_size=12).warnings) == 1


def test_what_square_breaks_after_the_others_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a staircase: the gradient leads nowhere, a search by trial and error does."""
    network = Odd("no gradient")
    split = _split(network, 24)
    gradients, search = set(STAGES[:3]), []

    def broken_by(self: Ensemble, stage: str, images: Tensor, labels: Tensor, alive: Any) -> Any:
        search.append(stage)
        return alive if stage in gradients else alive[3:]

    monkeypatch.setattr(Ensemble, "_broken_by", broken_by)
    result = evaluate(network, split, ATTACK, batch_size=12)
    assert search == [*STAGES, *STAGES]
    assert result.warnings == (
        "Square broke 6 of 24 images that the stages with gradients did not: "
        "their gradients may be masked.",
    )
    assert int(result.clean.sum()) - int(result.robust.sum()) == 6


class Fake:
    """AutoAttack of a made-up outcome."""

    def __init__(self, found: Callable[[Tensor], Tensor]) -> None:
        self.found = found

    def run_standard_evaluation(
        self, images: Tensor, labels: Tensor, *, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        return self.found(images), (labels + 1) % 5


@pytest.mark.parametrize(
    ("found", "counts"),
    [
        (lambda x: x, True),
        (lambda x: (x + 0.05).clamp(max=1), True),
        (lambda x: (x - 0.05 - 5e-7).clamp(min=0), True),
        (lambda x: (x + 0.0501).clamp(max=1), False),
        (lambda x: (x - 0.0501).clamp(min=0), False),
        (lambda x: x + 1e-3 + (1 - x), False),
        (lambda x: x * torch.nan, False),
    ],
    ids=["clean", "upper", "rounding", "above", "below", "out of the box", "no number"],
)
def test_an_image_outside_the_ball_breaks_nothing(
    found: Callable[[Tensor], Tensor], counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ensemble, "_make", lambda self, stage: Fake(found))
    network = Counted()
    result = evaluate(network, _split(network), Square(eps=0.05))
    assert result.ra == (0 if counts else result.sa)


def test_one_pixel_outside_the_ball_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(images: Tensor) -> Tensor:
        moved = images.clone()
        moved[1:, 0, 2, 2] = (images[1:, 0, 2, 2] - 0.5).abs()
        return moved

    monkeypatch.setattr(Ensemble, "_make", lambda self, stage: Fake(found))
    network = Counted()
    images = _split(network).images
    split = Split(images, network(images).argmax(dim=1))
    result = evaluate(network, split, Square(eps=0.05))
    inside = (found(images) - images).abs().flatten(1).amax(dim=1) < 0.05
    assert torch.equal(result.robust, ~inside)
    assert inside[0]


@pytest.fixture
def traced() -> Iterator[Callable[..., None]]:
    """A trace function, as that of a debugger or of a coverage tool."""

    def trace(*_: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    yield trace
    sys.settrace(before)


@pytest.mark.parametrize("dies", [False, True])
def test_nothing_of_the_process_is_left_changed(
    dies: bool, short: list[str], traced: Callable[..., None]
) -> None:
    logger = logging.getLogger("auto-attack")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    network = Counted()
    split = _split(network)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    if dies:
        network.dies_at = network.calls + 40
        with pytest.raises(KeyboardInterrupt):
            evaluate(network, split, ATTACK)
    else:
        evaluate(network, split, ATTACK)
    assert sys.gettrace() is traced
    assert torch.equal(torch.get_rng_state(), before)
    assert (list(logger.handlers), logger.level, logger.propagate) == (handlers, level, propagate)
    assert torch.is_grad_enabled()


def test_the_result_does_not_hang_on_the_global_generator(short: list[str]) -> None:
    network = Counted()
    split = _split(network)
    torch.manual_seed(1)
    one = evaluate(network, split, ATTACK).robust
    torch.manual_seed(2)
    assert torch.equal(evaluate(network, split, ATTACK).robust, one)


@pytest.mark.parametrize("attack", [AutoAttack(eps=0.1, targets=4), Square(eps=0.1)])
def test_a_missing_package_is_named(
    attack: AutoAttack | Square, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_installed(attack.name)
    monkeypatch.setattr(
        "oat.autoattack.find_spec", lambda name: None if name == "pyautoattack" else find_spec(name)
    )
    network = Counted()
    said = f"`{attack.name}` needs the package pyautoattack; install 'oat-studies\\[autoattack\\]'"
    with pytest.raises(ImportError, match=said):
        check_installed(attack.name)
    with pytest.raises(ImportError, match=said):
        evaluate(network, _split(network), attack)


def test_five_classes_are_refused_with_the_targets_that_fit(short: list[str]) -> None:
    network = Counted()
    split = _split(network)
    with pytest.raises(ValueError, match="at least 10 classes, the data have 5; set `targets: 4`"):
        evaluate(network, split, AutoAttack(eps=0.05))
    assert short == []
    assert evaluate(network, split, AutoAttack(eps=0.05, targets=4)).ra < 1
    assert short == list(STAGES)


def test_radius_zero_breaks_nothing(short: list[str]) -> None:
    network = Counted()
    result = evaluate(network, _split(network), Square(eps=0.0, queries=10))
    assert torch.equal(result.robust, result.clean)
