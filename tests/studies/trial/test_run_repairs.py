import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oat.checkpoint import dumps
from studies.storage.local import LocalFolder
from studies.trial.records import read_epochs, read_points, read_result
from studies.trial.run import run_trial
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
    trial = trial_of(tiny, "pgd_at λ=1", tmp_path, "train.epochs=3")
    folder, whole = place_of(trial, tmp_path), place_of(trial, undisturbed(trial))
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, folder, Interrupt("epoch", 2))
    folder.write("checkpoint", damage(folder.read("checkpoint")))
    outcome = run_trial(trial.job, folder, ignore)
    assert outcome["status"] == "done", outcome
    assert weights_of(folder) == weights_of(whole)
    assert numbers_of(trial, folder) == numbers_of(trial, whole)
    assert [epoch["epoch"] for epoch in read_epochs(folder)] == [1, 2, 3]


def test_weights_of_a_rule_judged_later_are_not_trained_again(
    tiny: dict[str, Any], storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = "evaluate.masking_images=5"
    first = trial_of(tiny, "pgd_at λ=1", storage, checked)
    assert first.state == "evaluate"
    run_trial(first.job, place_of(first, storage), ignore)
    trial = trial_of(tiny, "pgd_at λ=1", storage, checked, "evaluate.checkpoints=[last, chosen]")
    folder = place_of(trial, storage)
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
    last, chosen = numbers_of(trial, folder)
    same = {"point_key", "checkpoint_rule"}
    assert {k: v for k, v in last.items() if k not in same} == {
        k: v for k, v in chosen.items() if k not in same
    }


def test_a_trial_stopped_while_it_is_judged_keeps_its_weights(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(tiny, WIDE_LABELS[0], tmp_path, "train.epochs=2", *WIDE)
    folder = place_of(trial, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, folder, Interrupt("point", 2))
    before = {name: folder.read(name) for name in folder.names() if name.endswith("safetensors")}
    assert len(before) == 3
    monkeypatch.setattr("studies.trial.choosing.Training", None)  # whoever trains now, fails
    assert run_trial(trial.job, folder, ignore)["status"] == "done"
    assert {name: folder.read(name) for name in before} == before
    assert "trained.json" not in folder.names()


@pytest.mark.parametrize("name", ["trained.json", "model-averaged.safetensors"])
def test_a_damaged_trial_stopped_while_it_is_judged_starts_anew(
    name: str, tiny: dict[str, Any], tmp_path: Path, undisturbed: Callable[..., Path]
) -> None:
    trial = trial_of(tiny, WIDE_LABELS[0], tmp_path, "train.epochs=2", *WIDE)
    folder, whole = place_of(trial, tmp_path), place_of(trial, undisturbed(trial))
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, folder, Interrupt("point", 2))
    folder.write(name, _flipped(folder.read(name)))
    assert run_trial(trial.job, folder, ignore)["status"] == "done"
    assert numbers_of(trial, folder) == numbers_of(trial, whole)


def test_corrupt_weights_of_the_right_size_are_found_when_they_are_used(
    tiny: dict[str, Any], storage: Path
) -> None:
    added = "evaluate.attacks=[{steps: 1}, {steps: 2}]"
    trial = trial_of(tiny, "pgd_at λ=1", storage, added)
    folder = place_of(trial, storage)
    before, weights = read_result(folder), weights_of(folder)
    folder.write("model.safetensors", _flipped(folder.read("model.safetensors")))
    outcome = run_trial(trial.job, folder, ignore)
    assert before is not None
    assert outcome["status"] == "done"
    assert outcome["trained"]["training_id"] != before["trained"]["training_id"]
    assert weights_of(folder) == weights
    rows, _ = read_points(folder, outcome["trained"]["training_id"])
    assert sorted(row["attack"] for row in rows) == ["pgd1", "pgd2"]
    assert states_of(tiny, storage, added)["pgd_at λ=1"] == "done"


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
    trial = trial_of(tiny, "pgd_at λ=1", storage)
    folder = place_of(trial, storage)
    weights, numbers = weights_of(folder), numbers_of(trial, folder)
    REPAIRABLE[kind](folder)
    assert states_of(tiny, storage)["pgd_at λ=1"] in {
        "damaged",
        "evaluate",
        "missing",
        "unfinished",
    }
    outcome = run_trial(trial.job, folder, ignore)
    assert outcome["status"] == "done", outcome
    assert states_of(tiny, storage) == dict.fromkeys(LABELS, "done")
    assert weights_of(folder) == weights
    assert numbers_of(trial, folder) == numbers
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

    more = trial_of(tiny, LABELS[0], storage, "evaluate.attacks=[{steps: 2}]")
    folder = place_of(more, storage)
    before = {file: folder.read(file) for file in ("points.jsonl", "correct.npz")}
    outcome = run_trial(more.job, Away(folder.path), ignore)
    assert (outcome["status"], outcome["kind"]) == ("failed", "storage")
    assert {file: folder.read(file) for file in before} == before
    assert run_trial(more.job, folder, ignore)["status"] == "done"
    assert folder.read("points.jsonl").startswith(before["points.jsonl"])


def test_any_bit_of_the_correctness_that_changes_leaves_no_wrong_point(
    tiny: dict[str, Any], storage: Path
) -> None:
    trial = trial_of(tiny, "pgd_at λ=1", storage)
    folder = place_of(trial, storage)
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
