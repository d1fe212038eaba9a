import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from oat.adversaries import Transfer
from oat.autoattack import STAGES, Ensemble
from oat.data import DataConfig, Dataset, load
from oat.deploy import fold
from oat.evaluation import Judged, evaluate, evaluate_at
from oat.models import Network
from oat.models.slimmable import HeadPerWidth, SlimmableLinear
from studies.known_methods import method_of
from studies.planning.plan import PlannedTrial
from studies.results.reading import read_trial
from studies.storage.local import LocalFolder
from studies.storage.sealed import write_sealed
from studies.trial.rebuilding import rebuild
from studies.trial.records import read_result
from studies.trial.run import run_trial
from studies.trial.weights import read_weights
from tests.studies.trial.judged import (
    DEDICATED,
    run_and_read,
    trial_of,
    trials_of,
)
from tests.studies.trial.trials import LABELS, place_of

TRANSFER = "evaluate.attacks=[{name: pgd, steps: 1}, {name: transfer, steps: 3}]"

AUTOATTACK = ("evaluate.attacks=[{name: pgd, steps: 1}, {name: autoattack}]", "evaluate.images=8")


def _rows(trial: PlannedTrial, storage: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a trial with their correctness, by point key."""
    keys = [point["point_key"] for point in trial.job["points"]]
    rows, correct = read_trial(place_of(trial, storage), keys)
    return {
        row["point_key"]: {**row, "robust": correct[f"{row['point_key']}.robust"].tolist()}
        for row in rows
    }


def _dataset(trial: PlannedTrial) -> Dataset:
    return load(DataConfig(**trial.job["config"]["data"], **trial.job["data"]))


def _network(trial: PlannedTrial, storage: Path, rule: str = "last") -> Network:
    folder, config = place_of(trial, storage), trial.job["config"]
    result = read_result(folder)
    assert result is not None
    weights = read_weights(folder, result["trained"], rule)
    return rebuild(config, method_of(config), _dataset(trial), weights)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cut AutoAttack down to a few steps; list the stages that are run."""
    ran: list[str] = []
    make = Ensemble._make

    def made(self: Ensemble, stage: str) -> Any:
        ran.append(stage)
        attack = make(self, stage)
        attack.apgd.n_iter = attack.apgd.n_iter_orig = 2
        attack.apgd_targeted.n_iter = attack.apgd_targeted.n_iter_orig = 2
        attack.fab.n_iter, attack.square.n_queries = 2, 10
        return attack

    monkeypatch.setattr(Ensemble, "_make", made)
    return ran


@pytest.fixture
def die(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Kill the process, as it were, when a stage of AutoAttack begins."""

    def at(stage: str) -> None:
        make = Ensemble._make

        def killed(self: Ensemble, begun: str) -> Any:
            if begun == stage:
                monkeypatch.setattr(Ensemble, "_make", make)
                raise KeyboardInterrupt
            return make(self, begun)

        monkeypatch.setattr(Ensemble, "_make", killed)

    return at


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_killed_autoattack_goes_on_and_leaves_no_state_behind(
    stage: str,
    stages: list[str],
    die: Callable[[str], None],
    tiny: dict[str, Any],
    storage: Path,
    tmp_path: Path,
) -> None:
    other = Path(shutil.copytree(storage, tmp_path / "other"))
    trial = trial_of(tiny, "pgd_at λ=1", storage, *AUTOATTACK)
    undisturbed = trial_of(tiny, "pgd_at λ=1", other, *AUTOATTACK)
    run_and_read(undisturbed, other)
    assert tuple(stages) == STAGES
    folder, at = place_of(trial, storage), STAGES.index(stage)
    stages.clear()
    die(stage)
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, folder, lambda _: None)
    (state,) = [name for name in folder.names() if name.startswith("judging-")]
    last = trial.job["points"][-1]["point_key"]
    assert state == f"judging-{last}.json"
    assert tuple(stages) == STAGES[:at]
    assert trial_of(tiny, "pgd_at λ=1", storage, *AUTOATTACK).state == "evaluate"

    stages.clear()
    told = run_and_read(trial, storage)
    assert tuple(stages) == STAGES[at:]
    assert [record["kind"] for record in told] == ["point"]
    assert not [name for name in folder.names() if name.startswith("judging-")]
    assert _rows(trial, storage) == _rows(undisturbed, other)
    assert trial_of(tiny, "pgd_at λ=1", storage, *AUTOATTACK).state == "done"


def test_a_state_that_outlived_its_point_is_swept_away(
    stages: list[str], tiny: dict[str, Any], storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(tiny, "pgd_at λ=1", storage, *AUTOATTACK)
    folder, last = place_of(trial, storage), trial.job["points"][-1]["point_key"]
    remove = LocalFolder.remove

    def killed(self: LocalFolder, name: str) -> None:
        if name == f"judging-{last}.json":
            raise KeyboardInterrupt
        remove(self, name)

    monkeypatch.setattr(LocalFolder, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, folder, lambda _: None)
    monkeypatch.setattr(LocalFolder, "remove", remove)
    stages.clear()
    run_and_read(trial, storage)
    assert stages == []
    assert not [name for name in folder.names() if name.startswith("judging-")]


def test_the_state_of_other_weights_is_not_gone_on_from(
    stages: list[str], die: Callable[[str], None], tiny: dict[str, Any], storage: Path
) -> None:
    one, other = (trial_of(tiny, label, storage, *AUTOATTACK) for label in DEDICATED[1:])
    die("apgd-t")
    with pytest.raises(KeyboardInterrupt):
        run_trial(one.job, place_of(one, storage), lambda _: None)
    key, foreign = (trial.job["points"][-1]["point_key"] for trial in (other, one))
    state = place_of(one, storage).read(f"judging-{foreign}.json")
    place_of(other, storage).write(f"judging-{key}.json", state)
    stages.clear()
    run_and_read(other, storage)
    assert stages[0] == STAGES[0]


def test_the_sources_of_a_transfer_are_the_other_dedicated_models_of_the_same_seed(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    trials = trials_of(tiny, tmp_path, TRANSFER, "seeds=[0, 1]")
    assert len(trials) == 8
    for name, trial in trials.items():
        same_seed = {
            trials[f"{label}#{trial.seed}"].run_key
            for label in DEDICATED
            if f"{label}#{trial.seed}" != name
        }
        for point in trial.job["points"]:
            if point["attack"]["name"] == "transfer":
                assert set(point["sources"]) == same_seed
                assert len(point["sources"]) == len(same_seed) == (3 if "oat" in name else 2)
            else:
                assert "sources" not in point


def test_a_transfer_waits_for_its_sources(tiny: dict[str, Any], tmp_path: Path) -> None:
    first, *others = (trial_of(tiny, label, tmp_path, TRANSFER) for label in DEDICATED)
    told = run_and_read(first, tmp_path)
    assert [record["kind"] for record in told] == ["epoch", "point"]
    assert [row["attack"] for row in _rows(first, tmp_path).values()] == ["pgd1"]
    for left, other in zip((1, 0), others, strict=True):
        run_and_read(other, tmp_path)
        told = run_and_read(first, tmp_path)
        assert [record["kind"] for record in told] == [] if left else ["point"]
        again = trial_of(tiny, DEDICATED[0], tmp_path, TRANSFER)
        assert again.state == ("evaluate" if left else "done")
    rows = _rows(first, tmp_path)
    assert [row["attack"] for row in rows.values()] == ["pgd1", "transfer3"]
    before = place_of(first, tmp_path).read("points.jsonl")
    assert run_and_read(first, tmp_path) == []
    assert place_of(first, tmp_path).read("points.jsonl") == before


def test_images_come_from_the_sources_that_did_not_diverge(
    tiny: dict[str, Any], storage: Path
) -> None:
    trial, lost, kept = (
        trial_of(tiny, label, storage, TRANSFER) for label in ("pgd_at λ=1", *DEDICATED[::2])
    )
    assert trial.label not in {lost.label, kept.label}
    diverged = {"status": "diverged", "epoch": 1, "error": "no number"}
    write_sealed(place_of(lost, storage), "result.json", diverged)
    run_and_read(trial, storage)
    assert [row["attack"] for row in _rows(trial, storage).values()] == ["pgd1", "transfer3"]


def test_without_a_source_that_did_not_diverge_there_is_no_transfer(
    tiny: dict[str, Any], storage: Path
) -> None:
    trial = trial_of(tiny, "pgd_at λ=1", storage, TRANSFER)
    for label in DEDICATED:
        other = trial_of(tiny, label, storage, TRANSFER)
        if other.run_key != trial.run_key:
            diverged = {"status": "diverged", "epoch": 1, "error": "no number"}
            write_sealed(place_of(other, storage), "result.json", diverged)
    run_and_read(trial, storage)
    assert [row["attack"] for row in _rows(trial, storage).values()] == ["pgd1"]


@pytest.mark.parametrize("label", LABELS)
def test_a_transfer_is_crafted_on_the_deployed_networks_of_its_sources(
    label: str, tiny: dict[str, Any], storage: Path
) -> None:
    trial = trial_of(tiny, label, storage, TRANSFER)
    run_and_read(trial, storage)
    sources = [trial_of(tiny, other, storage, TRANSFER) for other in DEDICATED if other != label]
    surrogates = [fold(_network(source, storage), None) for source in sources]
    network = _network(trial, storage)
    rows = _rows(trial, storage)
    for point in trial.job["points"]:
        if point["attack"]["name"] == "transfer":
            expected = evaluate(
                fold(network, point["lam"]),
                _dataset(trial).test.head(50),
                Transfer(eps=0.1, steps=3),
                surrogates=surrogates,
            )
            assert rows[point["point_key"]]["robust"] == expected.robust.tolist()
            assert rows[point["point_key"]]["attack"] == "transfer3"


def test_equal_weights_of_two_rules_are_attacked_from_each_rules_own_sources(
    tiny: dict[str, Any], storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (TRANSFER, "evaluate.checkpoints=[last, chosen]", "evaluate.masking_images=0")
    trial, source, donor = (
        trial_of(tiny, label, storage, *overrides) for label in ("pgd_at λ=1", *DEDICATED[::2])
    )
    place = place_of(source, storage)
    result, given = read_result(place), read_result(place_of(donor, storage))
    assert result is not None
    assert given is not None
    place.write("model-chosen.safetensors", place_of(donor, storage).read("model.safetensors"))
    result["trained"]["weights"]["chosen"] = given["trained"]["weights"]["last"]
    write_sealed(place, "result.json", {k: v for k, v in result.items() if k != "check"})
    seen: list[str] = []

    def judged(*args: Any, **kwargs: Any) -> Judged:
        seen.append(args[3].label)
        return evaluate_at(*args, **kwargs)

    monkeypatch.setattr("studies.trial.judging.evaluate_at", judged)
    run_and_read(trial, storage)
    assert seen == ["transfer3", "transfer3"]


def test_every_lam_takes_the_studys_other_lams_at_the_same_width(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(
        tiny,
        "oats lambda_choices=(0.0,1.0) width_mults=(0.5,1.0)",
        tmp_path,
        "methods=[{name: oats, lambda_choices: [0, 1], width_mults: [0.5, 1]}]",
        "evaluate.attacks=[{name: pgd, steps: 2, every_lam: true}, {name: pgd, steps: 2}]",
        "evaluate.masking_images=0",
    )
    images = torch.rand(3, 1, 8, 8)
    seen: list[tuple[Any, list[Tensor]]] = []

    def judged(model: Network, point: Any, *args: Any, **kwargs: Any) -> Judged:
        surrogates: Sequence[Network] = kwargs["surrogates"]
        seen.append((point, [network(images) for network in surrogates]))
        return evaluate_at(model, point, *args, **kwargs)

    monkeypatch.setattr("studies.trial.judging.evaluate_at", judged)
    run_and_read(trial, tmp_path)
    network = _network(trial, tmp_path)
    assert len(seen) == 2 * 2 * 2
    assert {tuple(point) for point, _ in seen[::2]} == {(0, 1), (0, 0.5), (1, 1), (1, 0.5)}
    for point, logits in seen[::2]:
        (other,) = logits
        assert torch.equal(other, fold(network, 1 - point.lam, point.width_mult)(images))
    assert all(logits == [] for _, logits in seen[1::2])
    rows = _rows(trial, tmp_path)
    robust = [rows[point["point_key"]]["robust"] for point in trial.job["points"]]
    for strongest, own in zip(robust[::2], robust[1::2], strict=True):
        assert not any(s and not o for s, o in zip(strongest, own, strict=True))


def test_a_model_without_lam_has_no_other_lams(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["methods"][0]["lambda_choices"] = [0, 0.5, 1]
    every = "evaluate.attacks=[{name: pgd, steps: 2, every_lam: true}]"
    for name, trial in trials_of(tiny, tmp_path, every).items():
        for point in trial.job["points"]:
            if name.startswith("oat"):
                assert point["other_lams"] == [x for x in (0, 0.5, 1) if x != point["lam"]]
            else:
                assert "other_lams" not in point


@pytest.fixture
def gradients() -> Iterator[list[int]]:
    """Count the images of each pass through a network in training that is differentiated."""
    images: list[int] = []

    def count(module: nn.Module, args: Any, _: Any) -> None:
        head = isinstance(module, SlimmableLinear | HeadPerWidth)
        if head and module.training and torch.is_grad_enabled():
            images.append(len(args[0]))

    handle = register_module_forward_hook(count)
    yield images
    handle.remove()


BLOCKS = {
    "pgd_at λ=0": "{name: pgd_at, lam: 0}",
    "pgd_at λ=0.5": "{name: pgd_at, lam: 0.5}",
    "pgd_at λ=1": "{name: pgd_at, lam: 1}",
    "trades β=1": "{name: trades, beta: 1}",
    "pgd_at λ=1 width=0.5": "{name: pgd_at, lam: 1, width_mults: 0.5}",
    "oat lambda_choices=(0.0,1.0) zero_share=0.5": (
        "{name: oat, lambda_choices: [0, 1], zero_share: 0.5}"
    ),
}


@pytest.mark.parametrize("label", BLOCKS)
@pytest.mark.parametrize(("steps", "more"), [(1, ()), (3, ()), (2, ("train.ema=0.9",))])
def test_gradients_of_a_training_are_those_that_were_evaluated(
    label: str,
    steps: int,
    more: tuple[str, ...],
    gradients: list[int],
    tiny: dict[str, Any],
    tmp_path: Path,
) -> None:
    blocks = f"methods=[{BLOCKS[label]}]"
    trial = trial_of(tiny, label, tmp_path, blocks, f"attack.steps={steps}", *more)
    run_and_read(trial, tmp_path)
    (row,) = list(_rows(trial, tmp_path).values())[:1]
    assert row["train_gradients"] == sum(gradients)


def test_a_row_has_the_warnings_of_its_attack(
    stages: list[str], tiny: dict[str, Any], storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ensemble, "warnings", lambda self: ("One thing.", "Another."))
    trial = trial_of(tiny, "pgd_at λ=1", storage, *AUTOATTACK)
    run_and_read(trial, storage)
    rows = _rows(trial, storage).values()
    assert {row["attack"]: row["warnings"] for row in rows} == {
        "pgd1": "",
        "autoattack": "One thing. Another.",
    }
    assert all(row["images"] == 8 for row in rows)
    assert json.loads(json.dumps(trial.job)) == trial.job
