import itertools
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import studies
from oat.models import ModelConfig, forward_flops, relative_flops
from studies.planning.costs import training_units
from studies.planning.expand import make_plan
from studies.planning.plan import Plan, PlannedTrial, State
from studies.storage.local import LocalFolder
from studies.storage.sealed import seal
from studies.study_file.loading import load_study
from tests.studies.planning.plans import keys_of, plan_of


def _states(plan: Plan) -> dict[str, State]:
    return {trial.label: trial.state for trial in plan.trials}


def _folder(plan: Plan, label: str, storage: Path) -> Path:
    (key,) = [trial.run_key for trial in plan.trials if trial.label == label]
    return storage / plan.study.name / "trials" / key


LABELS = ["oat lambda_choices=(0.0,1.0)", "pgd_at λ=0", "pgd_at λ=1", "trades β=1"]


def test_a_plan_lists_a_trial_for_each_method_value_and_seed(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = plan_of(tiny, tmp_path, "seeds=[0, 1]")
    assert [(t.label, t.seed) for t in plan.trials] == [(m, s) for s in (0, 1) for m in LABELS]
    assert {trial.state for trial in plan.trials} == {"missing"}
    assert all(len(t.run_key) == 12 and int(t.run_key, 16) >= 0 for t in plan.trials)
    assert len({trial.run_key for trial in plan.trials}) == 8


def test_a_finished_study_has_nothing_left(tiny: dict[str, Any], finished: Path) -> None:
    plan = plan_of(tiny, finished)
    assert _states(plan) == dict.fromkeys(LABELS, "done")
    assert plan.to_run() == []
    assert plan.foreign == ()
    assert plan.makespan(2) == 0
    assert plan.measured
    assert plan.seconds_per_unit > 0


def test_one_more_value_is_one_more_trial(tiny: dict[str, Any], finished: Path) -> None:
    plan = plan_of(tiny, finished, "methods.1.lam=[0, 0.5, 1]")
    assert [(t.label, t.state) for t in plan.to_run()] == [("pgd_at λ=0.5", "missing")]
    assert plan.foreign == ()


def test_one_value_less_is_a_trial_that_no_longer_belongs(
    tiny: dict[str, Any], finished: Path
) -> None:
    plan = plan_of(tiny, finished, "methods.1.lam=[0]")
    assert plan.to_run() == []
    assert plan.foreign == (keys_of(tiny, finished)[2],)


def test_one_more_attack_is_judged_and_not_trained(tiny: dict[str, Any], finished: Path) -> None:
    plan = plan_of(tiny, finished, "evaluate.attacks=[{steps: 1}, {steps: 2}]")
    assert _states(plan) == dict.fromkeys(LABELS, "evaluate")
    assert len(plan.to_run()) == 4
    for trial in plan.trials:
        added = [p for p in trial.job["points"] if p["attack"]["steps"] == 2]
        assert trial.left is not None
        assert trial.left.points == len(added) < len(trial.job["points"])
        # one clean pass, and two steps with a backward pass to the inputs, on each of 50 images
        assert trial.left.units == len(added) * 50 * (1 + 2 * 2)
        assert trial.left.units < trial.judge_units
    judging = sum(trial.left.units for trial in plan.trials if trial.left) * plan.seconds_per_unit
    assert plan.makespan(1) == pytest.approx(judging)


def test_one_more_lam_is_judged_on_the_conditional_network_alone(
    tiny: dict[str, Any], tmp_path: Path, train_all: Callable[..., None]
) -> None:
    train_all(load_study(deepcopy(tiny), ["evaluate.lams=[0]"]), tmp_path)
    states = _states(plan_of(tiny, tmp_path))
    assert states == {**dict.fromkeys(LABELS, "done"), LABELS[0]: "evaluate"}


def test_other_epochs_make_all_trials_new_and_keep_the_old_ones(
    tiny: dict[str, Any], finished: Path
) -> None:
    plan = plan_of(tiny, finished, "train.epochs=2")
    assert _states(plan) == dict.fromkeys(LABELS, "missing")
    assert set(plan.foreign) == set(keys_of(tiny, finished))


def test_a_folder_without_a_result_is_not_counted_among_the_old_ones(
    tiny: dict[str, Any], storage: Path
) -> None:
    (storage / "tiny" / "trials" / "0123456789ab").mkdir()
    (storage / "tiny" / "trials" / "0123456789ab" / "checkpoint").write_bytes(b"x")
    assert plan_of(tiny, storage).foreign == ()


def test_a_checkpoint_is_gone_on_from_and_a_failure_means_another_try(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = plan_of(tiny, tmp_path)
    checkpoint = _folder(plan, "pgd_at λ=1", tmp_path)
    failed = _folder(plan, "pgd_at λ=0", tmp_path)
    damaged = _folder(plan, "trades β=1", tmp_path)
    for path in (checkpoint, failed, damaged):
        path.mkdir(parents=True)
    (checkpoint / "checkpoint").write_bytes(b"anything")
    (failed / "failure.json").write_text(json.dumps(seal({"error": "DataError: gone"})))
    (damaged / "failure.json").write_bytes(b"{")
    plan = plan_of(tiny, tmp_path)
    assert _states(plan) == {
        LABELS[0]: "missing",
        "pgd_at λ=0": "failed",
        "pgd_at λ=1": "unfinished",
        "trades β=1": "failed",
    }
    assert len(plan.to_run()) == 4
    assert [t.reason for t in plan.trials if t.label == "pgd_at λ=0"] == ["DataError: gone"]


def test_a_diverged_trial_is_final(tiny: dict[str, Any], tmp_path: Path) -> None:
    path = _folder(plan_of(tiny, tmp_path), "pgd_at λ=1", tmp_path)
    path.mkdir(parents=True)
    said = {"run_key": path.name, "status": "diverged", "epoch": 3, "error": "The loss is nan."}
    (path / "result.json").write_text(json.dumps(seal(said)))
    plan = plan_of(tiny, tmp_path)
    (trial,) = [trial for trial in plan.trials if trial.label == "pgd_at λ=1"]
    assert (trial.state, trial.reason, trial.needs_run) == ("diverged", "The loss is nan.", False)
    assert len(plan.to_run()) == 3


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path, position: int, bit: int = 0) -> None:
    changed = bytearray(path.read_bytes())
    changed[position] ^= 1 << bit
    path.write_bytes(bytes(changed))


Damage = Callable[[Path], object]

DAMAGED: dict[str, tuple[str, Damage]] = {
    "result cut": ("result.json", _cut),
    "result empty": ("result.json", lambda p: p.write_bytes(b"")),
    "result no JSON": ("result.json", lambda p: p.write_bytes(b"not JSON")),
    "result no text": ("result.json", lambda p: p.write_bytes(b"\xff\xfe\xfd")),
    "result a list": ("result.json", lambda p: p.write_bytes(b"[]")),
    "result null": ("result.json", lambda p: p.write_bytes(b"null")),
    "result without model": ("result.json", lambda p: p.write_bytes(b'{"status": "done"}')),
    "result without keys": (
        "result.json",
        lambda p: p.write_text(
            json.dumps(
                {
                    "status": "done",
                    "trained": {
                        "weights": {
                            "last": {"bytes": (p.parent / "model.safetensors").stat().st_size}
                        }
                    },
                }
            )
        ),
    ),
    "result diverged without a word": (
        "result.json",
        lambda p: p.write_bytes(b'{"status": "diverged"}'),
    ),
    "result first byte": ("result.json", lambda p: _flip(p, 0)),
    "model cut": ("model.safetensors", _cut),
    "model missing": ("model.safetensors", Path.unlink),
}

LACKING: dict[str, tuple[str, Damage]] = {
    "points cut": ("points.jsonl", _cut),
    "points missing": ("points.jsonl", Path.unlink),
    "points empty": ("points.jsonl", lambda p: p.write_bytes(b"")),
    "points no JSON": ("points.jsonl", lambda p: p.write_bytes(b"not JSON\n")),
    "points no objects": ("points.jsonl", lambda p: p.write_bytes(b"[]\n3\nnull\n")),
    "points without keys": (
        "points.jsonl",
        lambda p: p.write_text(
            json.dumps({"point_key": json.loads(p.read_text().splitlines()[0])["point_key"]})
        ),
    ),
    "correctness cut": ("correct.npz", _cut),
    "correctness missing": ("correct.npz", Path.unlink),
    "correctness empty": ("correct.npz", lambda p: p.write_bytes(b"")),
    "correctness no archive": ("correct.npz", lambda p: p.write_bytes(b"not an archive")),
    "correctness first byte": ("correct.npz", lambda p: _flip(p, 0)),
}


@pytest.mark.parametrize("kind", [*DAMAGED, *LACKING])
def test_damage_is_noticed_and_the_other_trials_stand(
    kind: str, tiny: dict[str, Any], storage: Path
) -> None:
    name, damage = (DAMAGED | LACKING)[kind]
    damage(_folder(plan_of(tiny, storage), "pgd_at λ=1", storage) / name)
    plan = plan_of(tiny, storage)
    state = "damaged" if kind in DAMAGED else "evaluate"
    assert _states(plan) == {**dict.fromkeys(LABELS, "done"), "pgd_at λ=1": state}
    assert [trial.label for trial in plan.to_run()] == ["pgd_at λ=1"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["result.json", "points.jsonl", "correct.npz"])
def test_every_flipped_bit_is_noticed_or_harmless(
    name: str, tiny: dict[str, Any], storage: Path
) -> None:
    study = load_study({**tiny, "methods": [{"name": "pgd_at", "lam": [0, 1]}]})
    folder = LocalFolder(storage / "tiny")
    path = _folder(make_plan(study, folder), "pgd_at λ=1", storage) / name
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(changed))
        other, trial = make_plan(study, folder).trials
        assert other.state == "done"
        assert trial.state in {"done", "evaluate", "damaged"}, position
        if name == "correct.npz":
            continue  # an archive has room for bits that mean nothing
        assert (trial.state == "done") == (_value(bytes(changed)) == _value(whole)), position


def _value(text: bytes) -> Any:
    """Return what lines of JSON say, None if they say nothing."""
    for read in (json.loads, lambda whole: [json.loads(line) for line in whole.splitlines()]):
        try:
            return read(text)
        except ValueError:  # not one object: perhaps one in each line
            continue
    return None


def test_a_wrong_answer_on_one_image_is_noticed(tiny: dict[str, Any], storage: Path) -> None:
    path = _folder(plan_of(tiny, storage), "pgd_at λ=1", storage) / "points.jsonl"
    first, *rest = path.read_text().splitlines()
    row = json.loads(first)
    path.write_text("\n".join([json.dumps({**row, "sa": row["sa"] + 0.02}), *rest]) + "\n")
    assert _states(plan_of(tiny, storage))["pgd_at λ=1"] == "evaluate"


def _tree(path: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(path)): (p.stat().st_mtime_ns, p.stat().st_size) for p in path.rglob("*")
    }


def test_planning_writes_nothing(tiny: dict[str, Any], storage: Path, tmp_path: Path) -> None:
    _cut(_folder(plan_of(tiny, storage), "pgd_at λ=1", storage) / "result.json")
    before = _tree(storage)
    studies.plan(tiny, storage=storage, overrides=["seeds=[0, 1]"])
    assert _tree(storage) == before
    studies.plan(tiny, storage=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


JUDGED_BY_LITTLE = ("evaluate.masking_images=0", "evaluate.held_out_images=0")


def test_the_longest_trials_come_first(tiny: dict[str, Any], tmp_path: Path) -> None:
    left = plan_of(tiny, tmp_path, "attack.steps=7", *JUDGED_BY_LITTLE).to_run()
    assert [t.units for t in left] == sorted((t.units for t in left), reverse=True)
    assert left[0].label == "trades β=1"  # clean pass, attack, adversarial pass, and the KL's own
    assert left[-1].label == "pgd_at λ=0"  # no attack at all


def test_oats_is_judged_at_every_width_lam_attack_and_rule(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = plan_of(
        tiny,
        tmp_path,
        "methods=[{name: oats, lambda_choices: [0, 1], width_mults: [0.5, 1]}, "
        "{name: pgd_at, lam: [0], width_mults: [0.5]}]",
        "train.ema=0.9",
        "evaluate.checkpoints=[averaged, last]",
        "evaluate.attacks=[{steps: 1}, {steps: 2}]",
    )
    points = [[dict(p) for p in trial.job["points"]] for trial in plan.trials]
    places = [
        [(p["checkpoint_rule"], p["width_mult"], p["lam"], p["attack"]["steps"]) for p in some]
        for some in points
    ]
    assert places[0] == list(itertools.product(["averaged", "last"], [1.0, 0.5], [0, 1], [1, 2]))
    # a dedicated network is narrow by itself and runs at all of its width
    assert places[1] == list(itertools.product(["averaged", "last"], [1.0], [None], [1, 2]))
    keys = [point["point_key"] for some in points for point in some]
    assert len(set(keys)) == len(keys)


def test_a_width_costs_its_share_of_the_operations(tiny: dict[str, Any], tmp_path: Path) -> None:
    blocks = "{name: pgd_at, lam: 0.5, width_mults: [0.5, 1]}, {name: oat}, {name: oats}"
    narrow, full, oat, oats = plan_of(tiny, tmp_path, f"methods=[{blocks}]").trials
    network, shape = ModelConfig("resnet8", 4), (1, 8, 8)
    half, most = (relative_flops(network, width, shape) for width in (0.5, 0.75))
    assert 0.25 < half < 0.3
    assert 0.5 < most < 0.6
    assert narrow.units == pytest.approx(half * full.units)
    assert narrow.judge_units == pytest.approx(half * full.judge_units)
    assert oats.units == pytest.approx((1 + half + most) * oat.units)
    assert oats.judge_units == pytest.approx((1 + half + most) * oat.judge_units)


def test_another_width_is_another_network_and_full_width_the_default_one(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    keys = [
        keys_of(tiny, tmp_path, f"methods=[{{name: pgd_at, lam: 1{more}}}]")
        for more in ("", ", width_mults: 1", ", width_mults: 0.5")
    ]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    "override",
    [
        "train.ema=0.9",
        "train.label_smoothing=0.1",
        "train.eps_warmup=1",
        "train.clip_norm=1",
        "train.schedule=onecycle",
        "methods.0.lambda_choices=[0, 0.5]",
        "methods.0.zero_share=0.4",
        "methods.0.batchwise=true",
        "methods.0.skip_clean_at_one=true",
        "methods.0.encoding=continuous",
    ],
)
def test_what_changes_the_weights_changes_the_key(
    override: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    assert keys_of(tiny, tmp_path, override)[0] != keys_of(tiny, tmp_path)[0]


def test_another_checkpoint_rule_is_judged_and_not_trained(
    tiny: dict[str, Any], finished: Path
) -> None:
    plan = plan_of(tiny, finished, "evaluate.checkpoints=[last, chosen]")
    assert _states(plan) == dict.fromkeys(LABELS, "evaluate")


def test_statistics_of_the_averaged_weights_are_counted(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plain, averaged = plan_of(tiny, tmp_path), plan_of(tiny, tmp_path, "train.ema=0.9")
    assert {trial.label for trial in plain.trials} == set(LABELS)
    for one, other, entry in zip(plain.trials, averaged.trials, plain.study.entries(), strict=True):
        # one epoch of eight steps, and as many batches for the statistics, without a backward pass
        (work,) = entry.method.work(plain.study.attack, plain.study.train.batch_size).values()
        assert other.units == pytest.approx(one.units * (1 + work.units_without_step / work.units))
        assert other.units < 2 * one.units


def test_twice_the_epochs_cost_twice(tiny: dict[str, Any], tmp_path: Path) -> None:
    once, twice = plan_of(tiny, tmp_path), plan_of(tiny, tmp_path, "train.epochs=2")
    for one, two in zip(once.trials, twice.trials, strict=True):
        assert two.units == pytest.approx(2 * one.units)
    assert not once.measured
    assert once.device_seconds(once.trials[0]) > 0


def test_an_attack_at_another_radius_has_a_name_of_its_own(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    eps = load_study(tiny).attack.eps
    plan = plan_of(tiny, tmp_path, "evaluate.attacks=[{steps: 1}, {steps: 1, eps: 0.05}]")
    labels = {point["attack_label"] for trial in plan.trials for point in trial.job["points"]}
    assert eps != 0.05
    assert labels == {"pgd1", "pgd1@0.05"}


def test_image_folders_in_two_places_are_two_data_sets(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    folder = "data.name=imagefolder"
    here = plan_of(tiny, tmp_path, folder, "data.root=here")
    there = plan_of(tiny, tmp_path, folder, "data.root=there")
    assert not {t.run_key for t in here.trials} & {t.run_key for t in there.trials}


def test_a_worker_finds_data_that_were_named_from_where_the_driver_stands(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of(tiny, tmp_path, "data.root=pictures")
    assert {trial.job["data"]["root"] for trial in plan.trials} == {str(tmp_path / "pictures")}


def test_where_a_trial_runs_is_no_part_of_its_key(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    before = make_plan(load_study(tiny), folder)
    tiny["methods"][0]["resources"] = {"cpu": 4, "gpu": 1, "device": "cpu"}
    after = make_plan(load_study(tiny), folder)
    assert [t.run_key for t in after.trials] == [t.run_key for t in before.trials]
    assert after.trials[0].job["resources"] == {"cpu": 4, "gpu": 1.0, "device": "cpu"}
    assert after.trials[1].job["resources"] == {"cpu": 1, "gpu": 0.0, "device": "auto"}


def test_nothing_is_asked_of_trials_that_are_not_in_storage(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    asked: list[str] = []

    class Watched(LocalFolder):
        def sub(self, name: str) -> "Watched":
            return Watched(self.path / name)

        def read(self, name: str) -> bytes:
            asked.append(name)
            return super().read(name)

        def size(self, name: str) -> int | None:
            asked.append(name)
            return super().size(name)

    study = load_study(tiny)
    assert {t.state for t in make_plan(study, Watched(tmp_path)).trials} == {"missing"}
    assert asked == ["probe.json"]  # which is the study's


def test_tuning_and_settings_that_are_the_studys_change_no_key(
    tunable: dict[str, Any], tmp_path: Path
) -> None:
    folder = LocalFolder(tmp_path)

    def trials(source: Any) -> list[PlannedTrial]:
        return list(make_plan(load_study(source), folder).trials)

    plain = {key: value for key, value in tunable.items() if key != "tune"}
    assert [t.job for t in trials(tunable)] == [t.job for t in trials(plain)]
    own = deepcopy(plain)
    own["methods"][1]["train"] = {"lr": 0.1}  # as the study says
    assert [t.job for t in trials(own)] == [t.job for t in trials(plain)]
    own["methods"][1]["train"] = {"lr": 0.2}
    changed = trials(own)
    odd = [t.run_key != u.run_key for t, u in zip(changed, trials(plain), strict=True)]
    assert odd == [False, True, True, False]
    # the model is the one of a study that says so for all
    everywhere = trials({**plain, "train": {**plain["train"], "lr": 0.2}})
    assert changed[1].run_key == everywhere[1].run_key
    # within a study other settings are no other budget, so that they can be compared
    assert {t.job["budget"] for t in changed} == {trials(plain)[0].job["budget"]}
    assert everywhere[1].job["budget"] != changed[1].job["budget"]


def test_points_on_held_out_images_are_others_than_those_on_test_images(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    tiny["evaluate"]["attacks"].append({"name": "square", "queries": 2})
    study = load_study(tiny)
    test = make_plan(study, LocalFolder(tmp_path))
    held = make_plan(study, LocalFolder(tmp_path), "val")
    assert [t.run_key for t in test.trials] == [t.run_key for t in held.trials]
    keys = [{p["point_key"] for t in plan.trials for p in t.job["points"]} for plan in (test, held)]
    assert not keys[0] & keys[1]
    assert all("split" not in p for t in test.trials for p in t.job["points"])
    assert all(p["split"] == "val" for t in held.trials for p in t.job["points"])


def test_the_work_of_the_dearest_training_is_that_of_its_trial(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    study = load_study(tiny)
    assert training_units(study) == max(
        trial.units for trial in make_plan(study, LocalFolder(tmp_path)).trials
    )


def test_what_mlflow_keeps_besides_is_in_no_job_and_in_no_budget(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plain, keeping = plan_of(tiny, tmp_path), plan_of(tiny, tmp_path, "tracking.log_models=true")
    assert keeping.study.tracking.log_models
    assert [t.job for t in keeping.trials] == [t.job for t in plain.trials]
    assert [t.run_key for t in keeping.trials] == [t.run_key for t in plain.trials]
    assert "tracking" not in plain.study.dump()  # as in the records of earlier versions


def test_judging_at_other_lam_costs_only_where_there_are_such(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plain, every = (
        plan_of(
            tiny,
            tmp_path,
            f"evaluate.attacks=[{{steps: 1, every_lam: {said}}}]",
            "evaluate.held_out_images=0",
        )
        for said in ("false", "true")
    )
    for one, other in zip(plain.trials, every.trials, strict=True):
        conditional = one.label.startswith("oat")
        assert (other.judge_units > one.judge_units) == conditional


def test_judging_a_network_from_outside_costs_what_that_network_computes(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "one.pt"
    path.write_bytes(b"1")
    both = [
        {"name": "checkpoint", "path": str(path), "model": model, "title": model["name"]}
        for model in (tiny["model"], {"name": "resnet18", "width": 64})
    ]
    study = {**tiny, "methods": [tiny["methods"][0], {"name": "pgd_at", "lam": 1}, *both]}
    _, ours, same, wide = plan_of(study, tmp_path).trials
    assert same.judge_units == pytest.approx(ours.judge_units)
    small, large = (
        forward_flops(ModelConfig(name, width), (1, 8, 8), 10)
        for name, width in ((tiny["model"]["name"], tiny["model"]["width"]), ("resnet18", 64))
    )
    assert wide.judge_units == pytest.approx(ours.judge_units * large / small)
