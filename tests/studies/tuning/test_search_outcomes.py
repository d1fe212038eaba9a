from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from studies.planning.plan import PlannedTrial
from studies.storage.local import LocalFolder
from studies.storage.sealed import write_sealed
from studies.tuning.search import FAILURES_IN_A_ROW
from tests.studies.tuning.searches import MakeDriver, diverge_of, epochs_of

pytestmark = [
    # TPE's constant liar, which lets trials run side by side
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


def _fail(folder: LocalFolder) -> Callable[[PlannedTrial], None]:
    def fail(trial: PlannedTrial) -> None:
        place = folder.sub(f"trials/{trial.run_key}")
        record = {"status": "failed", "kind": "out_of_memory", "error": "MemoryError: none left"}
        write_sealed(place, "failure.json", {**record, "traceback": ""})

    return fail


def test_a_search_gives_up_after_failures_in_a_row_and_tries_them_again_next_time(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(one_price)
    drive.start()
    for _ in range(FAILURES_IN_A_ROW):
        assert drive.ask() is not None
        drive.end(_fail(drive.folder))
    assert drive.ask() is None
    assert drive.search.why_ended == "5 trials failed one after another"
    found = drive.found()
    assert {trial.state for trial in found.trials} == {"failed"}
    assert "none left" in found.trials[0].reason
    assert found.winners == []
    again = driver(one_price)
    again.run()
    assert again.begun[:5] == drive.begun, "their candidates come first"
    assert len(again.begun) == len(set(again.begun)) == 10


def test_a_failure_between_others_ends_nothing(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(one_price)
    drive.start()
    for turn in range(8):
        if drive.ask() is None:
            break
        drive.end(_fail(drive.folder) if turn % 2 else None)
    assert drive.search.why_ended == ""


def test_a_worker_that_was_lost_for_good_fails_its_trial(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(one_price)
    drive.start()
    drive.ask()
    drive.end(error=True)
    (trial,) = drive.found().trials
    assert (trial.state, trial.reason) == ("failed", "its worker was lost again and again")


def test_a_trial_that_finished_and_was_lost_after_it_is_done(
    one_price: dict[str, Any], driver: MakeDriver, finish_trial: Callable[..., None]
) -> None:
    drive = driver(one_price)
    drive.start()
    drive.ask()
    drive.end(lambda trial: finish_trial(drive.folder, trial, 0.7, 0.3), error=True)
    (trial,) = drive.found().trials
    assert (trial.state, trial.sa, trial.ra) == ("done", 0.7, 0.3)


def test_diverged_trials_are_of_no_use_and_cost_what_they_took(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(one_price)
    drive.start()
    while drive.ask() is not None:
        drive.end(diverge_of(drive.folder))
    # every training diverges in its first epoch: the search must end all the same
    assert drive.search.why_ended == "the budget is spent"
    assert len(drive.begun) == 10
    assert drive.study.trials[0].values == [0.0, 0.0]
    found = drive.found()
    assert {trial.state for trial in found.trials} == {"diverged"}
    assert found.device_seconds == 100
    assert found.winners == []
    assert "the study's own settings stay" in found.notes[0]
    assert driver(one_price).run() == "the budget is spent"


def test_what_diverged_early_does_not_pass_for_a_cheap_trial(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    one_price["methods"][1]["lam"] = 1
    drive = driver(one_price, slots=4, seconds=lambda trial: 60.0)
    drive.start()
    drive.ask()
    drive.end()
    assert drive.ask() is None, "40 s are left, and a trial takes 60"
    one_price["tune"]["budget"] = "130s"
    drive = driver(one_price, slots=4)
    drive.start()
    drive.ask()
    drive.end(diverge_of(drive.folder, 2.0))
    drive.ask()
    assert drive.ask() is None


def test_a_trial_that_was_stopped_early_is_pruned_and_not_tried_again(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    one_price["tune"]["early_stopping"] = {"slack": 0.0}
    drive = driver(one_price)
    drive.start()
    drive.ask()
    drive.end(lambda trial: epochs_of(drive.folder, trial, 4.0))
    (trial,) = drive.study.trials
    assert trial.state == TrialState.PRUNED
    (trial,) = drive.found().trials
    assert (trial.state, trial.device_seconds) == ("stopped early", 4.0)
    again = driver(one_price)
    again.run()
    assert drive.begun[0] not in again.begun
    assert again.found().device_seconds == 94
    (note,) = again.found().notes
    assert "1 of 2 were finished" in note, "what tuning gained is not known without the start"


def test_points_that_do_not_agree_with_their_images_are_a_failure(
    one_price: dict[str, Any], driver: MakeDriver, finish_trial: Callable[..., None]
) -> None:
    drive = driver(one_price)
    drive.start()

    def damaged(trial: PlannedTrial) -> None:
        finish_trial(drive.folder, trial)
        drive.folder.sub(f"trials/{trial.run_key}").write("points.jsonl", b"")

    drive.ask()
    drive.end(damaged)
    (trial,) = drive.found().trials
    assert (trial.state, trial.reason) == ("failed", "its points are damaged")


def test_values_are_the_mean_over_the_points_of_a_once_for_all_network(
    one_price: dict[str, Any], driver: MakeDriver, finish_trial: Callable[..., None]
) -> None:
    drive = driver(one_price, "oat")
    drive.start()
    trial = drive.ask()
    assert trial is not None
    drive.end(lambda trial: finish_trial(drive.folder, trial, 0.85, 0.35))
    (told,) = drive.study.trials
    assert told.values == [0.85, 0.35]
    (found,) = drive.found().trials
    assert [(point["lam"], point["sa"]) for point in found.points] == [(0.0, 0.85), (1.0, 0.85)]


def test_optunas_front_is_that_of_the_points(one_price: dict[str, Any], driver: MakeDriver) -> None:
    drive = driver(one_price)
    drive.run()
    found = drive.found()
    best = {trial.number for trial in drive.study.best_trials}
    assert {trial.number for trial in found.won()} == best
    assert len(found.winners) == len(set(found.winners))


def test_methods_with_unequal_resources_have_no_equal_budget_and_it_is_said(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(one_price)
    drive.run()
    assert drive.found().notes == []
    one_price["methods"][0]["resources"] = {"cpu": 4}
    for method, cpus in (("oat", 4), ("trades", 1)):
        drive = driver(one_price, method)
        drive.run()
        (note,) = drive.found().notes
        assert note.startswith(f"a second of its training is one of {cpus} CPU and 0 GPU;")
