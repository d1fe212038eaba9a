from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oat.masking import check_masking
from studies.planning.plan import ONLY_CHECKS, PlannedTrial
from studies.storage.sealed import unseal
from studies.trial.records import read_checks, read_result
from tests.studies.trial.judged import DEDICATED, run_and_read, trial_of
from tests.studies.trial.trials import LABELS, place_of


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """List the radii of the checks that are made."""
    made: list[float] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append(args[2])
        return check_masking(*args, **kwargs)

    monkeypatch.setattr("studies.trial.judging.check_masking", counted)
    return made


CHECKED = "evaluate.masking_images=10"


def _checks(trial: PlannedTrial, storage: Path) -> list[dict[str, Any]]:
    folder = place_of(trial, storage)
    result = read_result(folder)
    assert result is not None
    return read_checks(folder, result["trained"]["training_id"])


def test_each_operating_point_is_checked_once_and_equal_weights_are_not_checked_twice(
    checked: list[float], tiny: dict[str, Any], tmp_path: Path
) -> None:
    overrides = (
        CHECKED,
        "evaluate.checkpoints=[last, chosen]",
        "evaluate.attacks=[{steps: 1}, {steps: 2}]",
    )
    trial = trial_of(tiny, LABELS[0], tmp_path, *overrides)
    run_and_read(trial, tmp_path)
    assert checked == [0.1, 0.1]  # of two λ; after one epoch both rules have the same weights
    checks = _checks(trial, tmp_path)
    assert [(c["checkpoint_rule"], c["lam"]) for c in checks] == [
        ("last", 0),
        ("last", 1),
        ("chosen", 0),
        ("chosen", 1),
    ]
    assert [c["check_key"] for c in checks] == [c["check_key"] for c in trial.job["checks"]]
    assert len({c["check_key"] for c in checks}) == 4
    own = {"check_key", "checkpoint_rule"}
    last, chosen = (
        [{k: v for k, v in c.items() if k not in own} for c in checks[i::2]] for i in (0, 1)
    )
    assert last[0] == last[1]
    assert chosen[0] == chosen[1]
    assert last[0] != chosen[0]
    run_and_read(trial, tmp_path)
    assert len(checked) == 2


def test_one_more_attack_is_no_reason_to_check_again(
    checked: list[float], tiny: dict[str, Any], storage: Path
) -> None:
    run_and_read(trial_of(tiny, LABELS[0], storage, CHECKED), storage)
    assert len(checked) == 2
    more = "evaluate.attacks=[{steps: 1}, {steps: 2}]"
    run_and_read(trial_of(tiny, LABELS[0], storage, CHECKED, more), storage)
    assert len(checked) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[: len(line) // 2],
        lambda line: line.replace(b'"ra_noise": ', b'"ra_noise": 1'),
        lambda line: b"[]",
        lambda line: b"\xff\xfe",
        lambda line: b"",
    ],
    ids=["cut", "a digit", "a list", "no text", "empty"],
)
def test_a_damaged_check_is_made_anew_and_no_other(
    damage: Callable[[bytes], bytes], checked: list[float], tiny: dict[str, Any], storage: Path
) -> None:
    trial = trial_of(tiny, LABELS[0], storage, CHECKED)
    run_and_read(trial, storage)
    checked.clear()
    folder, before = place_of(trial, storage), _checks(trial, storage)
    first, second = folder.read("checks.jsonl").splitlines()
    assert damage(first) != first
    folder.write("checks.jsonl", damage(first) + b"\n" + second + b"\n")
    left = trial_of(tiny, LABELS[0], storage, CHECKED)
    assert (left.state, left.reason) == ("evaluate", ONLY_CHECKS)
    assert run_and_read(trial, storage) == []
    assert len(checked) == 1
    by_key = {check["check_key"]: check for check in before}
    assert {check["check_key"]: check for check in _checks(trial, storage)} == by_key
    assert len(folder.read("checks.jsonl").splitlines()) == 2
    assert trial_of(tiny, LABELS[0], storage, CHECKED).state == "done"


def test_checks_of_another_training_do_not_count(
    checked: list[float], tiny: dict[str, Any], storage: Path
) -> None:
    trial, other = (trial_of(tiny, label, storage, CHECKED) for label in DEDICATED[:2])
    run_and_read(other, storage)
    checked.clear()
    lines = place_of(other, storage).read("checks.jsonl")
    place_of(trial, storage).write("checks.jsonl", lines)
    run_and_read(trial, storage)
    assert len(checked) == 1
    assert [
        unseal(line)["check_key"]
        for line in place_of(trial, storage).read("checks.jsonl").splitlines()
    ] == [trial.job["checks"][0]["check_key"]]


def test_no_images_to_check_are_no_checks(
    checked: list[float], tiny: dict[str, Any], tmp_path: Path
) -> None:
    trial = trial_of(tiny, "pgd_at λ=1", tmp_path, "evaluate.masking_images=0")
    run_and_read(trial, tmp_path)
    assert checked == []
    assert _checks(trial, tmp_path) == []
    assert trial_of(tiny, "pgd_at λ=1", tmp_path, "evaluate.masking_images=0").state == "done"
