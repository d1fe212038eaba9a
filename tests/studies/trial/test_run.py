import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from baselines import Interpolate, Mix, PgdAt, Trades
from oat.data import load
from oat.method import Method, Oat, Oats
from studies.known_methods import METHODS, OUTSIDE, RIVALS, describe, method_of
from studies.planning.run_keys import trial_config
from studies.results.points import COLUMNS, DERIVED, frame
from studies.results.reading import read_trial
from studies.storage.local import LocalFolder
from studies.storage.sealed import digest, unseal
from studies.study_file.loading import load_study
from studies.trial.records import read_checks, read_epochs, read_result
from studies.trial.run import run_trial
from studies.trial.weights import weights_file
from tests.studies.trial.trials import (
    LABELS,
    WIDE,
    WIDE_LABELS,
    Interrupt,
    ignore,
    numbers_of,
    place_of,
    states_of,
    trial_of,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("_forget_data")

CASES = [(label, ()) for label in LABELS] + [(label, WIDE) for label in WIDE_LABELS]

RANDOM = [LABELS[0], "pgd_at λ=1", "trades β=1"]
"""Trials of which each step draws from a generator of its own."""

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
    Mix(("pgd_at λ=0", "pgd_at λ=1")),
    Mix(("trades β=6 lr=0.2", "pgd_at λ=1"), width_mult=0.5),
    Interpolate(("pgd_at λ=0", "pgd_at start=pgd_at:λ=0 epochs=5 λ=1")),
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
    # of networks from outside: see test_checkpoints.py
    assert {method.name for method in ODD} == METHODS.keys() - set(OUTSIDE)
    trained = METHODS.keys() - {*RIVALS, *OUTSIDE}  # the others: see test_pairings.py
    assert {label.split()[0] for label, _ in CASES} == trained


@pytest.mark.parametrize("label", LABELS)
def test_a_job_is_plain_values(label: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    job = trial_of(tiny, label, tmp_path).job
    assert json.loads(json.dumps(job)) == job
    assert pickle.loads(pickle.dumps(job)) == job


@pytest.mark.parametrize(("label", "overrides"), CASES)
def test_every_method_keeps_the_contract_of_a_trial(
    label: str, overrides: tuple[str, ...], tiny: dict[str, Any], tmp_path: Path
) -> None:
    checked = "evaluate.masking_images=10"
    trial = trial_of(tiny, label, tmp_path, "train.epochs=2", checked, *overrides)
    folder = place_of(trial, tmp_path)
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
        assert place_of(trial_of(tiny, label, finished), finished).names() == [
            "config.json",
            "correct.npz",
            "epochs.jsonl",
            "model-chosen.safetensors",
            "model.safetensors",
            "points.jsonl",
            "provenance.json",
            "result.json",
        ]


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
    trial = trial_of(tiny, label, tmp_path, "train.epochs=3")
    folder, whole = place_of(trial, tmp_path), place_of(trial, undisturbed(trial))
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, folder, Interrupt(kind, count))
    assert read_result(folder) is None
    assert folder.size("failure.json") is None
    assert states_of(tiny, tmp_path, "train.epochs=3")[label] == "unfinished"
    torch.rand(3)  # someone else draws in between

    told: list[dict[str, Any]] = []
    assert run_trial(trial.job, folder, told.append)["status"] == "done"
    trained = [record["epoch"] for record in told if record["kind"] == "epoch"]
    assert trained == list(range(count + 1, 4)) if kind == "epoch" else not trained
    assert weights_of(folder) == weights_of(whole)
    assert numbers_of(trial, folder) == numbers_of(trial, whole)
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
    trial = trial_of(tiny, "pgd_at λ=0", tmp_path, "train.epochs=3")
    folder = place_of(trial, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, Dying(folder.path, "epochs.jsonl", count), ignore)
    assert run_trial(trial.job, folder, ignore)["status"] == "done"
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
    trial = trial_of(tiny, label, tmp_path, "train.epochs=3", *overrides)
    folder, whole = place_of(trial, tmp_path), place_of(trial, undisturbed(trial))
    for kind in ("epoch", "epoch", "epoch", "point", "point"):
        with pytest.raises(KeyboardInterrupt):
            run_trial(trial.job, folder, Interrupt(kind, 1))
    outcome = run_trial(trial.job, folder, ignore)
    assert outcome["status"] == "done"
    for rule in outcome["trained"]["weights"]:
        assert folder.read(weights_file(rule)) == whole.read(weights_file(rule)), rule
    assert numbers_of(trial, folder) == numbers_of(trial, whole)


def test_one_more_attack_keeps_the_training_and_the_points_it_has(
    tiny: dict[str, Any], storage: Path
) -> None:
    label = LABELS[0]
    first = trial_of(tiny, label, storage)
    folder = place_of(first, storage)
    before, old = read_result(folder), folder.read("points.jsonl").splitlines()
    kept = {n: folder.read(n) for n in ("model.safetensors", "epochs.jsonl", "provenance.json")}
    more = trial_of(tiny, label, storage, "evaluate.attacks=[{steps: 1}, {steps: 2}]")
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
    trial = trial_of(tiny, LABELS[0], storage)
    folder = place_of(trial, storage)
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
    trial = trial_of(tiny, "trades β=1e+38", tmp_path, *overrides)
    folder = place_of(trial, tmp_path)
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
    assert states_of(tiny, tmp_path, *overrides) == expected


@pytest.mark.parametrize("label", ["pgd_at λ=0", LABELS[0]])
def test_a_learning_rate_too_high_is_recorded_with_its_epoch(
    label: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    trial = trial_of(tiny, label, tmp_path, "train.lr=1e30", "train.epochs=5")
    outcome = run_trial(trial.job, place_of(trial, tmp_path), ignore)
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
    trial = trial_of(own, "pgd_at λ=1", tmp_path)
    folder = place_of(trial, tmp_path)
    outcome = run_trial(trial.job, folder, ignore)
    assert outcome["status"] == "failed"
    assert unseal(folder.read("failure.json")) == outcome
    assert "pictures" in outcome["error"]
    assert "Traceback" in outcome["traceback"]
    assert folder.size("result.json") is None
    trial = trial_of(own, "pgd_at λ=1", tmp_path)
    assert (trial.state, trial.needs_run, trial.reason) == ("failed", True, outcome["error"])

    _pictures(tmp_path / "pictures")
    assert run_trial(trial.job, folder, ignore)["status"] == "done"
    assert folder.size("failure.json") is None
    assert states_of(own, tmp_path) == {"pgd_at λ=1": "done"}


def test_an_error_in_the_code_says_where_its_traceback_is(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    def broken(record: object) -> None:
        raise KeyError("weights")

    trial = trial_of(tiny, "pgd_at λ=1", tmp_path)
    folder = place_of(trial, tmp_path)
    assert run_trial(trial.job, folder, broken)["status"] == "failed"
    reason = str(trial_of(tiny, "pgd_at λ=1", tmp_path).reason)
    error, path = reason.removesuffix(")").split(" (traceback in ")
    assert error == "KeyError: 'weights'"
    assert 'raise KeyError("weights")' in json.loads(Path(path).read_text())["traceback"]


def test_a_failure_never_replaces_a_finished_result(own: dict[str, Any], tmp_path: Path) -> None:
    _pictures(tmp_path / "pictures")
    trial = trial_of(own, "pgd_at λ=1", tmp_path)
    folder = place_of(trial, tmp_path)
    run_trial(trial.job, folder, ignore)
    before = {name: folder.read(name) for name in folder.names()}

    (tmp_path / "pictures").rename(tmp_path / "away")
    load.cache_clear()
    added = "evaluate.attacks=[{steps: 1}, {steps: 2}]"
    more = trial_of(own, "pgd_at λ=1", tmp_path, added)
    assert more.run_key == trial.run_key
    assert run_trial(more.job, folder, ignore)["status"] == "failed"
    assert {name: folder.read(name) for name in before} == before
    assert states_of(own, tmp_path, added) == {"pgd_at λ=1": "failed"}
    assert states_of(own, tmp_path) == {"pgd_at λ=1": "done"}

    (tmp_path / "away").rename(tmp_path / "pictures")
    assert run_trial(more.job, folder, ignore)["status"] == "done"
    assert states_of(own, tmp_path, added) == {"pgd_at λ=1": "done"}


ALONE = """
import json, sys
from studies.storage.local import LocalFolder
from studies.trial.run import run_trial
from studies.trial.weights import weights_file
from studies.trial.weights import weights_file
job = json.load(open(sys.argv[1]))
outcome = run_trial(job, LocalFolder(sys.argv[2]), lambda _: None)
print(outcome["trained"]["weights"]["last"]["sha256"])
"""


@pytest.mark.slow
def test_a_trial_after_another_equals_one_in_a_process_of_its_own(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    after, before = (trial_of(tiny, label, tmp_path, "train.epochs=2") for label in LABELS[::3])
    (tmp_path / "job.json").write_text(json.dumps(after.job))
    alone = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "job.json"), str(tmp_path / "alone")],
        capture_output=True,
        text=True,
        check=True,
    )
    with pytest.raises(KeyboardInterrupt):  # the other one leaves in the middle
        run_trial(before.job, place_of(before, tmp_path), Interrupt("epoch", 1))
    torch.manual_seed(99)
    torch.set_num_threads(2)
    outcome = run_trial(after.job, place_of(after, tmp_path), ignore)
    assert torch.get_num_threads() == 1
    assert outcome["trained"]["weights"]["last"]["sha256"] == alone.stdout.strip()
    rows = [
        numbers_of(after, place)
        for place in (place_of(after, tmp_path), LocalFolder(tmp_path / "alone"))
    ]
    assert rows[0] == rows[1]


def test_a_trial_runs_with_the_threads_it_asks_for(tiny: dict[str, Any], tmp_path: Path) -> None:
    trial = trial_of(tiny, "pgd_at λ=0", tmp_path, "resources.cpu=2", "data.train_images=32")
    folder = place_of(trial, tmp_path)
    run_trial(trial.job, folder, ignore)
    torch.set_num_threads(1)
    assert json.loads(folder.read("provenance.json"))["threads"] == 2
