import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from baselines import PgdAt, Trades
from oat.checkpoint import dumps
from oat.data import load
from oat.method import Method, Oat, Oats
from studies.methods import METHODS, describe, method_of
from studies.planning.expand import make_plan
from studies.planning.plan import PlannedTrial
from studies.planning.run_keys import trial_config
from studies.results.points import COLUMNS, DERIVED, frame
from studies.results.reading import read_trial
from studies.storage.local import LocalFolder
from studies.storage.sealed import digest, unseal
from studies.study_file.loading import load_study
from studies.trial.records import read_checks, read_epochs, read_points, read_result, weights_file
from studies.trial.run import run_trial

LABELS = ["oat lambda_choices=(0.0,1.0)", "pgd_at λ=0", "pgd_at λ=1", "trades β=1"]
WIDE = (
    "methods=[{name: oats, lambda_choices: [0, 1], width_mults: [0.5, 1], head_per_width: true}, "
    "{name: pgd_at, lam: 1, width_mults: 0.5}, {name: trades, beta: 1, width_mults: [0.5]}, "
    "{name: oat, lambda_choices: [0, 1], encoding: continuous, lambda_sampling: steep}]",
    "train.ema=0.9",
    "train.label_smoothing=0.1",
    "train.eps_warmup=2",
    "train.clip_norm=1",
    "train.schedule=onecycle",
    "evaluate.checkpoints=[last, averaged, chosen]",
    "evaluate.lams=[0, 1]",
)
"""Overrides that switch on what the paper has beyond OAT, and what makes training better."""

WIDE_LABELS = [
    "oats lambda_choices=(0.0,1.0) width_mults=(0.5,1.0) head_per_width=True",
    "pgd_at λ=1 width=0.5",
    "trades β=1 width=0.5",
    "oat lambda_choices=(0.0,1.0) lambda_sampling=steep encoding=continuous",
]
CASES = [(label, ()) for label in LABELS] + [(label, WIDE) for label in WIDE_LABELS]
RANDOM = [LABELS[0], "pgd_at λ=1", "trades β=1"]
"""Trials of which each step draws from a generator of its own."""


@pytest.fixture(autouse=True)
def _forget_data() -> Iterator[None]:
    """Let no test read what another one has put in place of the data."""
    yield
    load.cache_clear()


def _trial(source: dict[str, Any], label: str, storage: Path, *overrides: str) -> PlannedTrial:
    study = load_study(deepcopy(source), overrides)
    trials = make_plan(study, LocalFolder(storage / study.name)).trials
    (found,) = [trial for trial in trials if trial.label == label]
    return found


def _states(source: dict[str, Any], storage: Path, *overrides: str) -> dict[str, str]:
    study = load_study(deepcopy(source), overrides)
    trials = make_plan(study, LocalFolder(storage / study.name)).trials
    return {trial.label: trial.state for trial in trials}


def _place(trial: PlannedTrial, storage: Path) -> LocalFolder:
    return LocalFolder(storage / "tiny" / "trials" / trial.run_key)


def _ignore(record: dict[str, Any]) -> None:
    pass


class Interrupt:
    """Stop a trial as Ctrl-C would, at the so-many-th report of a kind."""

    def __init__(self, kind: str, count: int) -> None:
        self.kind, self.left = kind, count

    def __call__(self, record: dict[str, Any]) -> None:
        self.left -= record["kind"] == self.kind
        if not self.left:
            raise KeyboardInterrupt


def _weights(folder: LocalFolder) -> str:
    return hashlib.sha256(folder.read("model.safetensors")).hexdigest()


def _numbers(trial: PlannedTrial, folder: LocalFolder) -> list[dict[str, Any]]:
    """Return the points of a finished trial less what names or times the training."""
    rows, correct = read_trial(folder, [point["point_key"] for point in trial.job["points"]])
    assert len(rows) == len(trial.job["points"])
    kept = [
        {k: v for k, v in row.items() if k not in {"training_id", "train_device_seconds"}}
        for row in rows
    ]
    for row in kept:
        for kind in ("clean", "robust"):
            row[kind] = correct[f"{row['point_key']}.{kind}"].tolist()
    return sorted(kept, key=lambda row: str(row["point_key"]))


ODD: list[Method] = [
    Oat(),
    Oat(lambda_choices=(0.0, 1 / 3, 1.0), encoding="dct", encoding_dim=7, dual_bn=False),
    Oat(lambda_choices=(0.5,), encoding="none", film_init="paper"),
    PgdAt(),
    PgdAt(lam=0.1),
    PgdAt(lam=0.1, width_mult=0.5),
    Oats(),
    Oats(width_mults=(0.25, 1.0), head_per_width=True, encoding="continuous", batchwise=True),
    Oat(zero_share=0.5, encoding="none", lambda_sampling="uniform", skip_clean_at_one=True),
    Trades(),
    Trades(beta=1e-3),
]


@pytest.mark.parametrize("method", ODD, ids=describe)
def test_a_method_survives_the_config_the_wire_and_the_disk(
    method: Method, tiny: dict[str, Any]
) -> None:
    config = trial_config(load_study(tiny), method, 3)
    assert method_of(config) == method
    for copy in (json.loads(json.dumps(config)), pickle.loads(pickle.dumps(config))):
        assert method_of(copy) == method
        assert digest(copy) == digest(config)


def test_every_method_is_tried_here() -> None:
    assert {method.name for method in ODD} == METHODS.keys()
    assert {label.split()[0] for label, _ in CASES} == METHODS.keys()


@pytest.mark.parametrize("label", LABELS)
def test_a_job_is_plain_values(label: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    job = _trial(tiny, label, tmp_path).job
    assert json.loads(json.dumps(job)) == job
    assert pickle.loads(pickle.dumps(job)) == job


@pytest.mark.parametrize(("label", "overrides"), CASES)
def test_every_method_keeps_the_contract_of_a_trial(
    label: str, overrides: tuple[str, ...], tiny: dict[str, Any], tmp_path: Path
) -> None:
    checked = "evaluate.masking_images=10"
    trial = _trial(tiny, label, tmp_path, "train.epochs=2", checked, *overrides)
    folder = _place(trial, tmp_path)
    told: list[dict[str, Any]] = []
    outcome = run_trial(json.loads(json.dumps(trial.job)), folder, told.append)

    assert outcome["status"] == "done"
    assert outcome["run_key"] == trial.run_key
    assert unseal(folder.read("result.json")) == outcome
    weights = outcome["trained"]["weights"]
    rules = ["last", "averaged", "chosen"] if overrides else ["last", "chosen"]
    assert list(weights) == rules
    for rule, known in weights.items():
        data = folder.read(weights_file(rule))
        assert (len(data), hashlib.sha256(data).hexdigest()) == (known["bytes"], known["sha256"])
    assert json.loads(folder.read("config.json")) == trial.job["config"]

    points = len(trial.job["points"])
    assert [record["kind"] for record in told] == ["epoch"] * 2 + ["point"] * points
    for record in told:
        json.dumps(record)
        assert not any(isinstance(value, dict | list) for value in record.values())
    assert [epoch["epoch"] for epoch in read_epochs(folder)] == [1, 2]
    assert read_epochs(folder)[1]["sa_val"] is not None

    rows = [unseal(line) for line in folder.read("points.jsonl").splitlines()]
    assert [row["point_key"] for row in rows] == [p["point_key"] for p in trial.job["points"]]
    with np.load(Path(folder.uri) / "correct.npz") as archive:
        assert len(archive.files) == 2 * points
        for row in rows:
            assert list(row) == [name for name in COLUMNS if name not in DERIVED]
            clean, robust = (
                np.unpackbits(archive[f"{row['point_key']}.{kind}"], count=row["images"])
                for kind in ("clean", "robust")
            )
            assert row["images"] == 50
            assert (row["sa"], row["ra"]) == (clean.mean(), robust.mean())
            assert not (robust > clean).any()
    checks = read_checks(folder, outcome["trained"]["training_id"])
    assert [check["check_key"] for check in checks] == [c["check_key"] for c in trial.job["checks"]]
    table = frame(read_trial(folder, [row["point_key"] for row in rows])[0])
    assert (table["sa_low"] <= table["sa"]).all()
    assert (table["ra"] <= table["ra_high"]).all()
    assert table["check_images"].eq(10).all()
    assert table["masking"].ne("not checked").all()
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS
    assert set(table["run_key"]) == {trial.run_key}
    assert table["beta"].isna().all() == (not label.startswith("trades"))
    assert table["lam"].isna().all() == label.startswith("trades")

    narrow = label.endswith("width=0.5")
    widths = {0.5} if narrow else {0.5, 1.0} if label.startswith("oats") else {1.0}
    assert set(table["width_mult"]) == widths
    assert set(table["checkpoint_rule"]) == (set(rules) if overrides else {"last"})
    for row in rows:
        assert row["checkpoint_epoch"] == weights[row["checkpoint_rule"]]["epoch"]
        # FiLM and batch norm cost nothing in the deployed network
        assert row["in_situ_flops"] >= row["flops"]

    provenance = json.loads(folder.read("provenance.json"))
    assert torch.__version__.startswith(provenance["versions"]["torch"])
    assert provenance["versions"]["python"] == sys.version.split()[0]
    assert provenance["versions"]["oat-studies"]
    assert provenance["data_fingerprint"] == rows[0]["data_fingerprint"]
    assert provenance["execution"] == outcome["trained"]["execution"]
    assert provenance["execution"]["reasons"]
    assert {row["precision"] for row in rows} == {provenance["execution"]["precision"]}
    assert provenance["started"] <= provenance["trained"]


def test_a_finished_trial_keeps_what_it_needs_and_no_more(
    tiny: dict[str, Any], finished: Path
) -> None:
    for label in LABELS:
        assert _place(_trial(tiny, label, finished), finished).names() == [
            "config.json",
            "correct.npz",
            "epochs.jsonl",
            "model-chosen.safetensors",
            "model.safetensors",
            "points.jsonl",
            "provenance.json",
            "result.json",
        ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Run a trial of three epochs to its end, once for all who ask."""
    storage = tmp_path_factory.mktemp("undisturbed")

    def ask(trial: PlannedTrial) -> Path:
        run_trial(trial.job, _place(trial, storage), _ignore)
        return storage

    return ask


@pytest.mark.parametrize("label", RANDOM)
@pytest.mark.parametrize(
    ("kind", "count"), [("epoch", 1), ("epoch", 2), ("epoch", 3), ("point", 1)]
)
def test_a_trial_that_was_stopped_ends_as_if_it_had_not_been(
    label: str,
    kind: str,
    count: int,
    tiny: dict[str, Any],
    tmp_path: Path,
    undisturbed: Callable[..., Path],
) -> None:
    trial = _trial(tiny, label, tmp_path, "train.epochs=3")
    folder, whole = _place(trial, tmp_path), _place(trial, undisturbed(trial))
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, folder, Interrupt(kind, count))
    assert read_result(folder) is None
    assert folder.size("failure.json") is None
    assert _states(tiny, tmp_path, "train.epochs=3")[label] == "unfinished"
    torch.rand(3)  # someone else draws in between

    told: list[dict[str, Any]] = []
    assert run_trial(trial.job, folder, told.append)["status"] == "done"
    trained = [record["epoch"] for record in told if record["kind"] == "epoch"]
    assert trained == list(range(count + 1, 4)) if kind == "epoch" else not trained
    assert _weights(folder) == _weights(whole)
    assert _numbers(trial, folder) == _numbers(trial, whole)
    assert [epoch["epoch"] for epoch in read_epochs(folder)] == [1, 2, 3]
    losses = [[e["train_loss"] for e in read_epochs(place)] for place in (folder, whole)]
    assert losses[0] == losses[1]


class Dying(LocalFolder):
    """Kills whoever is about to write a file for the so-many-th time."""

    def __init__(self, path: Path, name: str, count: int) -> None:
        super().__init__(path)
        self.name, self.left = name, count

    def write(self, name: str, data: bytes) -> None:
        self.left -= name == self.name
        if not self.left:
            raise KeyboardInterrupt
        super().write(name, data)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_kill_between_a_checkpoint_and_its_line_loses_no_epoch_of_the_record(
    count: int, tiny: dict[str, Any], tmp_path: Path
) -> None:
    trial = _trial(tiny, "pgd_at λ=0", tmp_path, "train.epochs=3")
    folder = _place(trial, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, Dying(folder.path, "epochs.jsonl", count), _ignore)
    assert run_trial(trial.job, folder, _ignore)["status"] == "done"
    assert [epoch["epoch"] for epoch in read_epochs(folder)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("label", "overrides"), [(LABELS[0], ()), (WIDE_LABELS[0], WIDE), (WIDE_LABELS[3], WIDE)]
)
def test_a_trial_that_is_stopped_at_every_epoch_ends_all_the_same(
    label: str,
    overrides: tuple[str, ...],
    tiny: dict[str, Any],
    tmp_path: Path,
    undisturbed: Callable[..., Path],
) -> None:
    trial = _trial(tiny, label, tmp_path, "train.epochs=3", *overrides)
    folder, whole = _place(trial, tmp_path), _place(trial, undisturbed(trial))
    for kind in ("epoch", "epoch", "epoch", "point", "point"):
        with pytest.raises(KeyboardInterrupt):
            run_trial(trial.job, folder, Interrupt(kind, 1))
    outcome = run_trial(trial.job, folder, _ignore)
    assert outcome["status"] == "done"
    for rule in outcome["trained"]["weights"]:
        assert folder.read(weights_file(rule)) == whole.read(weights_file(rule)), rule
    assert _numbers(trial, folder) == _numbers(trial, whole)


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        _flipped,
        lambda _: b"",
        lambda _: b"not a checkpoint",
        lambda _: dumps({"epoch": 1}),  # sound, but of other code
    ],
    ids=["cut", "flipped", "empty", "foreign", "of other code"],
)
def test_a_corrupt_checkpoint_starts_the_trial_anew(
    damage: Callable[[bytes], bytes],
    tiny: dict[str, Any],
    tmp_path: Path,
    undisturbed: Callable[..., Path],
) -> None:
    trial = _trial(tiny, "pgd_at λ=1", tmp_path, "train.epochs=3")
    folder, whole = _place(trial, tmp_path), _place(trial, undisturbed(trial))
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, folder, Interrupt("epoch", 2))
    folder.write("checkpoint", damage(folder.read("checkpoint")))
    outcome = run_trial(trial.job, folder, _ignore)
    assert outcome["status"] == "done", outcome
    assert _weights(folder) == _weights(whole)
    assert _numbers(trial, folder) == _numbers(trial, whole)
    assert [epoch["epoch"] for epoch in read_epochs(folder)] == [1, 2, 3]


def test_weights_of_a_rule_judged_later_are_not_trained_again(
    tiny: dict[str, Any], storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = "evaluate.masking_images=5"
    first = _trial(tiny, "pgd_at λ=1", storage, checked)
    assert first.state == "evaluate"
    run_trial(first.job, _place(first, storage), _ignore)
    trial = _trial(tiny, "pgd_at λ=1", storage, checked, "evaluate.checkpoints=[last, chosen]")
    folder = _place(trial, storage)
    assert trial.state == "evaluate"
    told: list[dict[str, Any]] = []
    before = read_result(folder)
    # one epoch: both rules have the same weights, which are not judged twice
    monkeypatch.setattr("studies.trial.judging.evaluate_at", None)
    monkeypatch.setattr("studies.trial.judging.check_masking", None)
    outcome = run_trial(trial.job, folder, told.append)
    assert outcome["status"] == "done", outcome
    assert [record["kind"] for record in told] == ["point"]
    assert before is not None
    assert outcome["trained"] == before["trained"]
    last, chosen = _numbers(trial, folder)
    same = {"point_key", "checkpoint_rule"}
    assert {k: v for k, v in last.items() if k not in same} == {
        k: v for k, v in chosen.items() if k not in same
    }


def test_a_trial_stopped_while_it_is_judged_keeps_its_weights(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = _trial(tiny, WIDE_LABELS[0], tmp_path, "train.epochs=2", *WIDE)
    folder = _place(trial, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, folder, Interrupt("point", 2))
    before = {name: folder.read(name) for name in folder.names() if name.endswith("safetensors")}
    assert len(before) == 3
    monkeypatch.setattr("studies.trial.choosing.Training", None)  # whoever trains now, fails
    assert run_trial(trial.job, folder, _ignore)["status"] == "done"
    assert {name: folder.read(name) for name in before} == before
    assert "trained.json" not in folder.names()


@pytest.mark.parametrize("name", ["trained.json", "model-averaged.safetensors"])
def test_a_damaged_trial_stopped_while_it_is_judged_starts_anew(
    name: str, tiny: dict[str, Any], tmp_path: Path, undisturbed: Callable[..., Path]
) -> None:
    trial = _trial(tiny, WIDE_LABELS[0], tmp_path, "train.epochs=2", *WIDE)
    folder, whole = _place(trial, tmp_path), _place(trial, undisturbed(trial))
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, folder, Interrupt("point", 2))
    folder.write(name, _flipped(folder.read(name)))
    assert run_trial(trial.job, folder, _ignore)["status"] == "done"
    assert _numbers(trial, folder) == _numbers(trial, whole)


def test_corrupt_weights_of_the_right_size_are_found_when_they_are_used(
    tiny: dict[str, Any], storage: Path
) -> None:
    added = "evaluate.attacks=[{steps: 1}, {steps: 2}]"
    trial = _trial(tiny, "pgd_at λ=1", storage, added)
    folder = _place(trial, storage)
    before, weights = read_result(folder), _weights(folder)
    folder.write("model.safetensors", _flipped(folder.read("model.safetensors")))
    outcome = run_trial(trial.job, folder, _ignore)
    assert before is not None
    assert outcome["status"] == "done"
    assert outcome["trained"]["training_id"] != before["trained"]["training_id"]
    assert _weights(folder) == weights
    rows, _ = read_points(folder, outcome["trained"]["training_id"])
    assert sorted(row["attack"] for row in rows) == ["pgd1", "pgd2"]
    assert _states(tiny, storage, added)["pgd_at λ=1"] == "done"


REPAIRABLE: dict[str, Callable[[LocalFolder], None]] = {
    "result cut": lambda f: f.write("result.json", _cut(f.read("result.json"))),
    "result flipped": lambda f: f.write("result.json", _flipped(f.read("result.json"))),
    "result a list": lambda f: f.write("result.json", b"[]"),
    "result without keys": lambda f: f.write(
        "result.json",
        json.dumps(
            {
                "status": "done",
                "trained": {"weights": {"last": {"bytes": f.size("model.safetensors")}}},
            }
        ).encode(),
    ),
    "result missing": lambda f: f.remove("result.json"),
    "model cut": lambda f: f.write("model.safetensors", _cut(f.read("model.safetensors"))),
    "model missing": lambda f: f.remove("model.safetensors"),
    "chosen cut": lambda f: f.write(
        "model-chosen.safetensors", _cut(f.read("model-chosen.safetensors"))
    ),
    "chosen missing": lambda f: f.remove("model-chosen.safetensors"),
    "points cut": lambda f: f.write("points.jsonl", _cut(f.read("points.jsonl"))),
    "points no objects": lambda f: f.write("points.jsonl", b"[]\n"),
    "points missing": lambda f: f.remove("points.jsonl"),
    "correctness cut": lambda f: f.write("correct.npz", _cut(f.read("correct.npz"))),
    "correctness flipped": lambda f: f.write("correct.npz", _flipped(f.read("correct.npz"))),
    "correctness missing": lambda f: f.remove("correct.npz"),
    "all but a checkpoint of nothing": lambda f: (
        [f.remove(n) for n in f.names()],
        f.write("checkpoint", b"junk"),
    )[1],
}


@pytest.mark.parametrize("kind", REPAIRABLE)
def test_a_damaged_trial_is_made_whole_again_with_the_same_numbers(
    kind: str, tiny: dict[str, Any], storage: Path
) -> None:
    trial = _trial(tiny, "pgd_at λ=1", storage)
    folder = _place(trial, storage)
    weights, numbers = _weights(folder), _numbers(trial, folder)
    REPAIRABLE[kind](folder)
    assert _states(tiny, storage)["pgd_at λ=1"] in {"damaged", "evaluate", "missing", "unfinished"}
    outcome = run_trial(trial.job, folder, _ignore)
    assert outcome["status"] == "done", outcome
    assert _states(tiny, storage) == dict.fromkeys(LABELS, "done")
    assert _weights(folder) == weights
    assert _numbers(trial, folder) == numbers
    assert len(folder.read("points.jsonl").splitlines()) == 1


@pytest.mark.parametrize("name", ["points.jsonl", "correct.npz"])
def test_points_that_cannot_be_read_for_a_while_are_not_taken_for_none(
    name: str, tiny: dict[str, Any], storage: Path
) -> None:
    class Away(LocalFolder):
        def read(self, wanted: str) -> bytes:
            if wanted == name:
                raise OSError(5, "Input/output error")
            return super().read(wanted)

    more = _trial(tiny, LABELS[0], storage, "evaluate.attacks=[{steps: 2}]")
    folder = _place(more, storage)
    before = {file: folder.read(file) for file in ("points.jsonl", "correct.npz")}
    outcome = run_trial(more.job, Away(folder.path), _ignore)
    assert (outcome["status"], outcome["kind"]) == ("failed", "storage")
    assert {file: folder.read(file) for file in before} == before
    assert run_trial(more.job, folder, _ignore)["status"] == "done"
    assert folder.read("points.jsonl").startswith(before["points.jsonl"])


def test_any_bit_of_the_correctness_that_changes_leaves_no_wrong_point(
    tiny: dict[str, Any], storage: Path
) -> None:
    trial = _trial(tiny, "pgd_at λ=1", storage)
    folder = _place(trial, storage)
    result = read_result(folder)
    assert result is not None
    training_id = result["trained"]["training_id"]
    rows, correct = read_points(folder, training_id)
    data = folder.read("correct.npz")
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        (folder.path / "correct.npz").write_bytes(changed)
        found, read = read_points(folder, training_id)
        assert found in ([], rows), bit
        for key in read:
            assert (read[key] == correct[key]).all(), bit


def test_one_more_attack_keeps_the_training_and_the_points_it_has(
    tiny: dict[str, Any], storage: Path
) -> None:
    label = LABELS[0]
    first = _trial(tiny, label, storage)
    folder = _place(first, storage)
    before, old = read_result(folder), folder.read("points.jsonl").splitlines()
    kept = {n: folder.read(n) for n in ("model.safetensors", "epochs.jsonl", "provenance.json")}
    more = _trial(tiny, label, storage, "evaluate.attacks=[{steps: 1}, {steps: 2}]")
    told: list[dict[str, Any]] = []
    outcome = run_trial(more.job, folder, told.append)
    assert before is not None
    assert outcome["trained"] == before["trained"]
    assert {name: folder.read(name) for name in kept} == kept
    new = folder.read("points.jsonl").splitlines()
    assert new[:2] == old
    assert [json.loads(line)["attack"] for line in new[2:]] == ["pgd2", "pgd2"]
    assert [record["kind"] for record in told] == ["point", "point"]


def test_a_finished_trial_that_is_run_again_does_nothing(
    tiny: dict[str, Any], storage: Path
) -> None:
    trial = _trial(tiny, LABELS[0], storage)
    folder = _place(trial, storage)
    before = {name: folder.read(name) for name in folder.names()}
    told: list[dict[str, Any]] = []
    run_trial(trial.job, folder, told.append)
    assert told == []
    assert {name: folder.read(name) for name in folder.names()} == before


def test_a_loss_that_is_no_number_ends_its_trial_alone(
    tiny: dict[str, Any], tmp_path: Path, train_all: Callable[..., None]
) -> None:
    tiny["methods"][2]["beta"] = [1, 1e38]
    overrides = ["train.epochs=3"]
    train_all(load_study(deepcopy(tiny), overrides), tmp_path)
    trial = _trial(tiny, "trades β=1e+38", tmp_path, *overrides)
    folder = _place(trial, tmp_path)
    result = unseal(folder.read("result.json"))
    assert (result["status"], result["run_key"]) == ("diverged", trial.run_key)
    assert result["epoch"] in {1, 2, 3}
    assert f"epoch {result['epoch']}" in result["error"]
    assert folder.size("failure.json") is None
    assert folder.size("checkpoint") is None
    assert read_trial(folder, [p["point_key"] for p in trial.job["points"]]) == ([], {})
    assert trial.state == "diverged"
    assert trial.reason == result["error"]
    expected = {**dict.fromkeys(LABELS, "done"), trial.label: "diverged"}
    assert _states(tiny, tmp_path, *overrides) == expected


@pytest.mark.parametrize("label", ["pgd_at λ=0", LABELS[0]])
def test_a_learning_rate_too_high_is_recorded_with_its_epoch(
    label: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    trial = _trial(tiny, label, tmp_path, "train.lr=1e30", "train.epochs=5")
    outcome = run_trial(trial.job, _place(trial, tmp_path), _ignore)
    assert outcome["status"] == "diverged"
    assert 1 <= outcome["epoch"] <= 5


def _pictures(root: Path) -> None:
    """Write grey squares and black ones, twelve and four of each."""
    source = np.random.default_rng(0)
    for half, count in (("train", 12), ("test", 4)):
        for kind, level in (("black", 0), ("grey", 120)):
            place = root / half / kind
            place.mkdir(parents=True)
            for i in range(count):
                pixels = source.integers(level, level + 60, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")


@pytest.fixture
def own(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A study of one model on images that are not there yet."""
    return {
        **tiny,
        "data": {"name": "imagefolder", "root": str(tmp_path / "pictures")},
        "methods": [{"name": "pgd_at", "lam": 1}],
    }


def test_missing_data_fail_the_trial_until_they_are_there(
    own: dict[str, Any], tmp_path: Path
) -> None:
    trial = _trial(own, "pgd_at λ=1", tmp_path)
    folder = _place(trial, tmp_path)
    outcome = run_trial(trial.job, folder, _ignore)
    assert outcome["status"] == "failed"
    assert unseal(folder.read("failure.json")) == outcome
    assert "pictures" in outcome["error"]
    assert "Traceback" in outcome["traceback"]
    assert folder.size("result.json") is None
    trial = _trial(own, "pgd_at λ=1", tmp_path)
    assert (trial.state, trial.needs_run, trial.reason) == ("failed", True, outcome["error"])

    _pictures(tmp_path / "pictures")
    assert run_trial(trial.job, folder, _ignore)["status"] == "done"
    assert folder.size("failure.json") is None
    assert _states(own, tmp_path) == {"pgd_at λ=1": "done"}


def test_a_failure_never_replaces_a_finished_result(own: dict[str, Any], tmp_path: Path) -> None:
    _pictures(tmp_path / "pictures")
    trial = _trial(own, "pgd_at λ=1", tmp_path)
    folder = _place(trial, tmp_path)
    run_trial(trial.job, folder, _ignore)
    before = {name: folder.read(name) for name in folder.names()}

    (tmp_path / "pictures").rename(tmp_path / "away")
    load.cache_clear()
    added = "evaluate.attacks=[{steps: 1}, {steps: 2}]"
    more = _trial(own, "pgd_at λ=1", tmp_path, added)
    assert more.run_key == trial.run_key
    assert run_trial(more.job, folder, _ignore)["status"] == "failed"
    assert {name: folder.read(name) for name in before} == before
    assert _states(own, tmp_path, added) == {"pgd_at λ=1": "failed"}
    assert _states(own, tmp_path) == {"pgd_at λ=1": "done"}

    (tmp_path / "away").rename(tmp_path / "pictures")
    assert run_trial(more.job, folder, _ignore)["status"] == "done"
    assert _states(own, tmp_path, added) == {"pgd_at λ=1": "done"}


ALONE = """
import json, sys
from studies.storage import LocalFolder
from studies.trial import run_trial
job = json.load(open(sys.argv[1]))
outcome = run_trial(job, LocalFolder(sys.argv[2]), lambda _: None)
print(outcome["trained"]["weights"]["last"]["sha256"])
"""


@pytest.mark.slow
def test_a_trial_after_another_equals_one_in_a_process_of_its_own(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    after, before = (_trial(tiny, label, tmp_path, "train.epochs=2") for label in LABELS[::3])
    (tmp_path / "job.json").write_text(json.dumps(after.job))
    alone = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "job.json"), str(tmp_path / "alone")],
        capture_output=True,
        text=True,
        check=True,
    )
    with pytest.raises(KeyboardInterrupt):  # the other one leaves in the middle
        run_trial(before.job, _place(before, tmp_path), Interrupt("epoch", 1))
    torch.manual_seed(99)
    torch.set_num_threads(2)
    outcome = run_trial(after.job, _place(after, tmp_path), _ignore)
    assert torch.get_num_threads() == 1
    assert outcome["trained"]["weights"]["last"]["sha256"] == alone.stdout.strip()
    rows = [
        _numbers(after, place)
        for place in (_place(after, tmp_path), LocalFolder(tmp_path / "alone"))
    ]
    assert rows[0] == rows[1]


def test_a_trial_runs_with_the_threads_it_asks_for(tiny: dict[str, Any], tmp_path: Path) -> None:
    trial = _trial(tiny, "pgd_at λ=0", tmp_path, "resources.cpu=2", "data.train_images=16")
    folder = _place(trial, tmp_path)
    run_trial(trial.job, folder, _ignore)
    torch.set_num_threads(1)
    assert json.loads(folder.read("provenance.json"))["threads"] == 2
