import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import studies
from oat.models import ModelConfig, relative_flops
from studies.planning import run_keys as planning
from studies.planning.costs import training_units
from studies.planning.expand import make_plan
from studies.planning.plan import Plan, PlannedTrial, State
from studies.storage.local import LocalFolder
from studies.storage.sealed import seal
from studies.study_file.loading import load_study
from studies.trial.run import run_trial


def _plan(source: dict[str, Any], storage: Path, *overrides: str) -> Plan:
    study = load_study(deepcopy(source), overrides)
    return make_plan(study, LocalFolder(storage / study.name))


def _keys(source: dict[str, Any], storage: Path, *overrides: str) -> list[str]:
    return [trial.run_key for trial in _plan(source, storage, *overrides).trials]


def _states(plan: Plan) -> dict[str, State]:
    return {trial.label: trial.state for trial in plan.trials}


def _folder(plan: Plan, label: str, storage: Path) -> Path:
    (key,) = [trial.run_key for trial in plan.trials if trial.label == label]
    return storage / plan.study.name / "trials" / key


LABELS = ["oat lambda_choices=(0.0,1.0)", "pgd_at λ=0", "pgd_at λ=1", "trades β=1"]


def test_a_plan_lists_a_trial_for_each_method_value_and_seed(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = _plan(tiny, tmp_path, "seeds=[0, 1]")
    assert [(t.label, t.seed) for t in plan.trials] == [(m, s) for s in (0, 1) for m in LABELS]
    assert {trial.state for trial in plan.trials} == {"missing"}
    assert all(len(t.run_key) == 12 and int(t.run_key, 16) >= 0 for t in plan.trials)
    assert len({trial.run_key for trial in plan.trials}) == 8


def test_judging_in_tf32_is_another_point_of_the_same_training(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    checked = "evaluate.masking_images=10"
    exact = _plan(tiny, tmp_path, checked).trials
    same = _plan(tiny, tmp_path, checked, "evaluate.tf32=false").trials
    rounded = _plan(tiny, tmp_path, checked, "evaluate.tf32=true").trials
    assert [t.job for t in same] == [t.job for t in exact]
    for one, other in zip(exact, rounded, strict=True):
        assert one.run_key == other.run_key
        for kind, key in (("points", "point_key"), ("checks", "check_key")):
            assert {p[key] for p in one.job[kind]}.isdisjoint(p[key] for p in other.job[kind])
        settings = {p["attack_settings"] for t in (one, other) for p in t.job["points"]}
        assert len(settings) == 2  # never compared with each other


@pytest.mark.slow
def test_run_keys_are_the_same_in_another_process(tiny: dict[str, Any], tmp_path: Path) -> None:
    program = (
        "import json, sys, studies\n"
        "plan = studies.plan(json.loads(sys.argv[1]), storage=sys.argv[2])\n"
        "print(json.dumps([trial.run_key for trial in plan.trials]))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, json.dumps(tiny), str(tmp_path)],
        env={"PYTHONHASHSEED": "1", "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(found.stdout) == _keys(tiny, tmp_path)


@pytest.mark.parametrize(
    "override",
    [
        "data.root=/elsewhere",
        "data.download=true",
        "resources={cpu: 3, gpu: 0.5}",
        "evaluate.images=7",
        "evaluate.batch_size=7",
        "evaluate.lams=[0]",
        "evaluate.attacks=[{steps: 9, eps: 0.3}]",
        "name=other",
        "data.crop=0",  # what digits have anyway
        "train.momentum=0.9",  # so is each of these the default
        "attack.step_size=auto",
        "methods.0.dual_bn=true",
        "methods.1.lam=[0.0, 1.0]",
    ],
)
def test_what_does_not_decide_the_weights_is_not_in_the_run_key(
    override: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    assert _keys(tiny, tmp_path, override) == _keys(tiny, tmp_path)


@pytest.mark.parametrize(
    "override",
    [
        "seeds=[1]",
        "train.epochs=2",
        "train.batch_size=8",
        "train.lr=0.2",
        "train.momentum=0.5",
        "train.weight_decay=0",
        "train.schedule=constant",
        "train.precision=bfloat16",
        "attack.eps=0.2",
        "attack.steps=2",
        "attack.step_size=0.05",
        "model.name=resnet14",
        "model.width=8",
        "data.name=fashion_mnist",
        "data.train_images=32",
        "data.val_fraction=0.2",
        "data.crop=1",
        "data.flip=true",
    ],
)
def test_what_decides_the_weights_is_in_every_run_key(
    override: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    assert not set(_keys(tiny, tmp_path, override)) & set(_keys(tiny, tmp_path))


@pytest.mark.parametrize(
    "override",
    [
        "methods.0.lambda_choices=[0, 0.5, 1]",
        "methods.0.encoding=dct",
        "methods.0.encoding_dim=16",
        "methods.0.dual_bn=false",
        "methods.0.film_init=paper",
    ],
)
def test_a_setting_of_one_method_changes_its_run_key_alone(
    override: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    before, after = _keys(tiny, tmp_path), _keys(tiny, tmp_path, override)
    assert before[0] != after[0]
    assert before[1:] == after[1:]


def test_a_new_version_of_the_results_makes_every_key_new(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _keys(tiny, tmp_path)
    monkeypatch.setattr(planning, "RESULTS_VERSION", 10_000)
    assert not set(before) & set(_keys(tiny, tmp_path))


def test_the_order_of_keys_in_the_file_does_not_matter(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    turned = {key: tiny[key] for key in reversed(tiny)}
    turned["train"] = {key: tiny["train"][key] for key in reversed(tiny["train"])}
    assert _keys(turned, tmp_path) == _keys(tiny, tmp_path)


def test_points_have_keys_over_all_that_decides_their_numbers(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    def points(*overrides: str) -> set[str]:
        trials = _plan(tiny, tmp_path, *overrides).trials
        listed = [point["point_key"] for trial in trials for point in trial.job["points"]]
        assert len(set(listed)) == len(listed)
        return set(listed)

    assert len(points()) == 5  # OAT at two λ, and one for each dedicated model
    for override in (
        "evaluate.images=7",
        "evaluate.batch_size=7",
        "evaluate.attacks.0.steps=2",
        "evaluate.attacks.0.eps=0.2",
        "evaluate.attacks.0.step_size=0.01",
        "train.epochs=2",
    ):
        assert not points(override) & points()
    assert points("data.root=/elsewhere", "resources.cpu=2") == points()
    more = points("evaluate.attacks=[{steps: 1}, {steps: 2}]")
    assert points() < more
    assert len(more) == 10
    assert points("evaluate.lams=[0]") < points()


def test_a_finished_study_has_nothing_left(tiny: dict[str, Any], finished: Path) -> None:
    plan = _plan(tiny, finished)
    assert _states(plan) == dict.fromkeys(LABELS, "done")
    assert plan.to_run() == []
    assert plan.foreign == ()
    assert plan.makespan(2) == 0
    assert plan.measured
    assert plan.seconds_per_unit > 0


def test_one_more_value_is_one_more_trial(tiny: dict[str, Any], finished: Path) -> None:
    plan = _plan(tiny, finished, "methods.1.lam=[0, 0.5, 1]")
    assert [(t.label, t.state) for t in plan.to_run()] == [("pgd_at λ=0.5", "missing")]
    assert plan.foreign == ()


def test_one_value_less_is_a_trial_that_no_longer_belongs(
    tiny: dict[str, Any], finished: Path
) -> None:
    plan = _plan(tiny, finished, "methods.1.lam=[0]")
    assert plan.to_run() == []
    assert plan.foreign == (_keys(tiny, finished)[2],)


def test_one_more_attack_is_judged_and_not_trained(tiny: dict[str, Any], finished: Path) -> None:
    plan = _plan(tiny, finished, "evaluate.attacks=[{steps: 1}, {steps: 2}]")
    assert _states(plan) == dict.fromkeys(LABELS, "evaluate")
    assert len(plan.to_run()) == 4
    judging = sum(trial.judge_units for trial in plan.trials) * plan.seconds_per_unit
    assert plan.makespan(1) == pytest.approx(judging)


def test_one_more_lam_is_judged_on_the_conditional_network_alone(
    tiny: dict[str, Any], tmp_path: Path, train_all: Callable[..., None]
) -> None:
    train_all(load_study(deepcopy(tiny), ["evaluate.lams=[0]"]), tmp_path)
    states = _states(_plan(tiny, tmp_path))
    assert states == {**dict.fromkeys(LABELS, "done"), LABELS[0]: "evaluate"}


def test_other_epochs_make_all_trials_new_and_keep_the_old_ones(
    tiny: dict[str, Any], finished: Path
) -> None:
    plan = _plan(tiny, finished, "train.epochs=2")
    assert _states(plan) == dict.fromkeys(LABELS, "missing")
    assert set(plan.foreign) == set(_keys(tiny, finished))


def test_a_folder_without_a_result_is_not_counted_among_the_old_ones(
    tiny: dict[str, Any], storage: Path
) -> None:
    (storage / "tiny" / "trials" / "0123456789ab").mkdir()
    (storage / "tiny" / "trials" / "0123456789ab" / "checkpoint").write_bytes(b"x")
    assert _plan(tiny, storage).foreign == ()


def test_a_checkpoint_is_gone_on_from_and_a_failure_means_another_try(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = _plan(tiny, tmp_path)
    checkpoint = _folder(plan, "pgd_at λ=1", tmp_path)
    failed = _folder(plan, "pgd_at λ=0", tmp_path)
    damaged = _folder(plan, "trades β=1", tmp_path)
    for path in (checkpoint, failed, damaged):
        path.mkdir(parents=True)
    (checkpoint / "checkpoint").write_bytes(b"anything")
    (failed / "failure.json").write_text(json.dumps(seal({"error": "DataError: gone"})))
    (damaged / "failure.json").write_bytes(b"{")
    plan = _plan(tiny, tmp_path)
    assert _states(plan) == {
        LABELS[0]: "missing",
        "pgd_at λ=0": "failed",
        "pgd_at λ=1": "unfinished",
        "trades β=1": "failed",
    }
    assert len(plan.to_run()) == 4
    assert [t.reason for t in plan.trials if t.label == "pgd_at λ=0"] == ["DataError: gone"]


def test_a_diverged_trial_is_final(tiny: dict[str, Any], tmp_path: Path) -> None:
    path = _folder(_plan(tiny, tmp_path), "pgd_at λ=1", tmp_path)
    path.mkdir(parents=True)
    said = {"run_key": path.name, "status": "diverged", "epoch": 3, "error": "The loss is nan."}
    (path / "result.json").write_text(json.dumps(seal(said)))
    plan = _plan(tiny, tmp_path)
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
        lambda p: p.write_text(json.dumps({"point_key": json.loads(p.read_text())["point_key"]})),
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
    damage(_folder(_plan(tiny, storage), "pgd_at λ=1", storage) / name)
    plan = _plan(tiny, storage)
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
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_a_wrong_answer_on_one_image_is_noticed(tiny: dict[str, Any], storage: Path) -> None:
    path = _folder(_plan(tiny, storage), "pgd_at λ=1", storage) / "points.jsonl"
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "sa": row["sa"] + 0.02}) + "\n")
    assert _states(_plan(tiny, storage))["pgd_at λ=1"] == "evaluate"


def _tree(path: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(path)): (p.stat().st_mtime_ns, p.stat().st_size) for p in path.rglob("*")
    }


def test_planning_writes_nothing(tiny: dict[str, Any], storage: Path, tmp_path: Path) -> None:
    _cut(_folder(_plan(tiny, storage), "pgd_at λ=1", storage) / "result.json")
    before = _tree(storage)
    studies.plan(tiny, storage=storage, overrides=["seeds=[0, 1]"])
    assert _tree(storage) == before
    studies.plan(tiny, storage=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_the_longest_trials_come_first(tiny: dict[str, Any], tmp_path: Path) -> None:
    left = _plan(tiny, tmp_path, "attack.steps=7", "evaluate.masking_images=0").to_run()
    assert [t.units for t in left] == sorted((t.units for t in left), reverse=True)
    assert left[0].label == "trades β=1"  # clean pass, attack, adversarial pass, and the KL's own
    assert left[-1].label == "pgd_at λ=0"  # no attack at all


def test_oats_is_judged_at_every_width_lam_attack_and_rule(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = _plan(
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
    narrow, full, oat, oats = _plan(tiny, tmp_path, f"methods=[{blocks}]").trials
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
        _keys(tiny, tmp_path, f"methods=[{{name: pgd_at, lam: 1{more}}}]")
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
    assert _keys(tiny, tmp_path, override)[0] != _keys(tiny, tmp_path)[0]


def test_another_checkpoint_rule_is_judged_and_not_trained(
    tiny: dict[str, Any], finished: Path
) -> None:
    plan = _plan(tiny, finished, "evaluate.checkpoints=[last, chosen]")
    assert _states(plan) == dict.fromkeys(LABELS, "evaluate")


def test_statistics_of_the_averaged_weights_are_counted(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plain, averaged = _plan(tiny, tmp_path), _plan(tiny, tmp_path, "train.ema=0.9")
    for one, other in zip(plain.trials, averaged.trials, strict=True):
        # one epoch of eight steps, and as many batches for the statistics
        assert other.units == pytest.approx(2 * one.units)


def test_twice_the_epochs_cost_twice(tiny: dict[str, Any], tmp_path: Path) -> None:
    once, twice = _plan(tiny, tmp_path), _plan(tiny, tmp_path, "train.epochs=2")
    for one, two in zip(once.trials, twice.trials, strict=True):
        assert two.units == pytest.approx(2 * one.units)
    assert not once.measured
    assert once.device_seconds(once.trials[0]) > 0


def _invented(units: list[float], states: list[State]) -> Plan:
    trials = tuple(
        PlannedTrial(f"{i:012x}", str(i), 0, {}, state, cost, 0.0)
        for i, (cost, state) in enumerate(zip(units, states, strict=True))
    )
    return Plan(load_study("quickstart"), trials, (), 0.5, True)


def _best(costs: list[float], slots: int) -> float:
    """Try every way to deal trials to slots and return the shortest time."""
    ways = itertools.product(range(slots), repeat=len(costs))
    return min(
        max(sum(c for c, where in zip(costs, way, strict=True) if where == s) for s in range(slots))
        for way in ways
    )


@given(units=st.lists(st.floats(0.1, 100), min_size=1, max_size=6), slots=st.integers(1, 3))
def test_makespan_is_within_grahams_bound_of_the_best_schedule(
    units: list[float], slots: int
) -> None:
    plan = _invented(units, ["missing"] * len(units))
    best = _best([0.5 * u for u in units], slots)
    assert best - 1e-9 <= plan.makespan(slots) <= (4 / 3 - 1 / (3 * slots)) * best + 1e-9


@given(units=st.lists(st.floats(0.1, 100), min_size=1, max_size=8))
def test_makespan_at_its_ends_is_the_sum_and_the_longest(units: list[float]) -> None:
    plan = _invented(units, ["missing"] * len(units))
    assert plan.makespan(1) == pytest.approx(0.5 * sum(units))
    assert plan.makespan(len(units)) == pytest.approx(0.5 * max(units))
    assert plan.makespan(0) == plan.makespan(1)


def test_makespan_counts_training_that_is_left_alone() -> None:
    plan = _invented([8, 4, 2, 1], ["missing", "done", "evaluate", "failed"])
    assert plan.makespan(1) == pytest.approx(0.5 * 9)


def test_the_cost_of_finished_trials_is_measured(tiny: dict[str, Any], tmp_path: Path) -> None:
    one = {**tiny, "methods": [{"name": "pgd_at", "lam": [0, 1]}]}
    trial = _plan(one, tmp_path).trials[0]
    folder = LocalFolder(tmp_path / "tiny" / "trials" / trial.run_key)
    outcome = run_trial(trial.job, folder, lambda _: None)
    plan = _plan(one, tmp_path)
    assert plan.measured
    seconds = plan.device_seconds(plan.trials[0])
    assert seconds == pytest.approx(outcome["trained"]["device_seconds"])


def test_an_attack_at_another_radius_has_a_name_of_its_own(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    eps = load_study(tiny).attack.eps
    plan = _plan(tiny, tmp_path, "evaluate.attacks=[{steps: 1}, {steps: 1, eps: 0.05}]")
    labels = {point["attack_label"] for trial in plan.trials for point in trial.job["points"]}
    assert eps != 0.05
    assert labels == {"pgd1", "pgd1@0.05"}


def test_image_folders_in_two_places_are_two_data_sets(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    folder = "data.name=imagefolder"
    here = _plan(tiny, tmp_path, folder, "data.root=here")
    there = _plan(tiny, tmp_path, folder, "data.root=there")
    assert not {t.run_key for t in here.trials} & {t.run_key for t in there.trials}


def test_a_worker_finds_data_that_were_named_from_where_the_driver_stands(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = _plan(tiny, tmp_path, "data.root=pictures")
    assert {trial.job["data"]["root"] for trial in plan.trials} == {str(tmp_path / "pictures")}


PLAIN: dict[str, Any] = {
    "name": "plain",
    "data": {"name": "digits"},
    "methods": [
        {"name": "oat", "lambda_choices": [0, 1]},
        {"name": "pgd_at", "lam": [0.5]},
        {"name": "trades", "beta": [6]},
    ],
}
ODD: dict[str, Any] = {
    "name": "odd",
    "data": {"name": "cifar10", "train_images": 1000},
    "model": {"name": "resnet18", "width": 8},
    "train": {"epochs": 3, "ema": 0.9},
    "attack": {"eps": "8/255", "steps": 7},
    "seeds": [1],
    "methods": [
        {"name": "oats", "lambda_choices": [0, 1], "width_mults": [0.5, 1]},
        {"name": "pgd_at", "lam": 1, "width_mults": [0.5]},
    ],
    "evaluate": {
        "attacks": [
            {"name": "pgd", "steps": 20},
            {"steps": 5, "step_size": 0.01, "eps": "4/255"},
        ],
        "images": 500,
        "batch_size": 250,
        "lams": [1],
        "checkpoints": ["averaged", "last"],
    },
}


@pytest.mark.parametrize(
    ("source", "budget", "keys"),
    [
        (
            PLAIN,
            "d5fb9a5e912d",
            {
                "ab81aaf172ef": ["d1a80d16ac5b", "566054b5ce88"],
                "84d4f86d865b": ["2957d1ebf800"],
                "a284793b7a88": ["1041d3462ba2"],
            },
        ),
        (
            ODD,
            "b98f3a8d1647",
            {
                "c1b457a88e63": [
                    "a96f062f6df7", "dc6f056670d2", "6475272060f8", "b2e398e3aa55",
                    "2c6367a2c446", "304f28c61dd2", "e4f27c1737a5", "c397594e9bda",
                ],
                "79baab85f21d": ["1f6a4bd4e5d3", "733e35e97d90", "2c64eef71d5b", "722cb7717e0d"],
            },
        ),
    ],
)  # fmt: skip
def test_what_was_finished_before_there_were_many_attacks_is_still_found(
    source: dict[str, Any], budget: str, keys: dict[str, list[str]], tmp_path: Path
) -> None:
    """These keys were computed by commit d7d7c39; another one would lose every finished result."""
    trials = _plan(source, tmp_path).trials
    found = {t.run_key: [point["point_key"] for point in t.job["points"]] for t in trials}
    assert found == keys
    assert {trial.job["budget"] for trial in trials} == {budget}


@pytest.mark.parametrize(
    "override",
    [
        "evaluate.attacks=[{name: pgd, steps: 50, restarts: 2, loss: cw, momentum: 1}]",
        "evaluate.attacks=[{name: pgd, every_lam: true}]",
        "evaluate.attacks=[{name: fgsm}]",
        "evaluate.attacks=[{name: autoattack, images: 10}]",
        "evaluate.attacks=[{name: square, queries: 10}]",
        "evaluate.attacks=[{name: transfer}]",
        "evaluate.attacks=[{eps: 0.05}]",
        "evaluate.lams=[0]",
        "evaluate.images=10",
        "evaluate.masking_images=0",
        "evaluate.batch_size=7",
        "evaluate.checkpoints=[chosen]",
        "resources.cpu=2",
    ],
)
def test_how_models_are_judged_changes_no_run_key(
    override: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    assert _keys(tiny, tmp_path, override) == _keys(tiny, tmp_path)


def _point_keys(source: dict[str, Any], storage: Path, *overrides: str) -> list[str]:
    plan = _plan(source, storage, *overrides)
    return [point["point_key"] for trial in plan.trials for point in trial.job["points"]]


OPTIONS = (
    "{steps: 3}",
    "{steps: 3, restarts: 2}",
    "{steps: 3, loss: cw}",
    "{steps: 3, momentum: 1}",
    "{steps: 3, step_size: 0.01}",
    "{steps: 3, every_lam: true}",
    "{steps: 3, eps: 0.05}",
    "{name: fgsm}",
    "{name: fgsm, loss: cw}",
    "{name: autoattack}",
    "{name: autoattack, targets: 4}",
    "{name: square}",
    "{name: square, queries: 3}",
    "{name: transfer, steps: 3}",
)


def test_every_option_of_an_attack_makes_points_and_settings_of_its_own(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = _plan(tiny, tmp_path, f"evaluate.attacks=[{', '.join(OPTIONS)}]")
    points = [point for trial in plan.trials for point in trial.job["points"]]
    assert len({point["point_key"] for point in points}) == len(points) == 5 * len(OPTIONS)
    settings = {(point["attack_label"], point["attack_settings"]) for point in points}
    assert len(settings) == len({label for label, _ in settings}) == len(OPTIONS)


def test_an_attack_takes_no_more_images_than_the_study(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    def keys(images: str, study: str = "50") -> list[str]:
        attack = f"evaluate.attacks=[{{name: pgd, steps: 1{images}}}]"
        return _point_keys(tiny, tmp_path, attack, f"evaluate.images={study}")

    assert keys(", images: 60") == keys(", images: 50") == keys("")
    assert keys(", images: 20") == keys("", "20") != keys("")
    assert keys(", images: 60", "null") == keys("", "60")
    assert not set(keys("", "null")) & set(keys(""))


def test_a_study_without_checks_for_masking_plans_none_and_the_same_points(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    none, some = "evaluate.masking_images=0", "evaluate.masking_images=5"
    trials = _plan(tiny, tmp_path, some).trials
    assert [len(trial.job["checks"]) for trial in trials] == [2, 1, 1, 1]
    assert not any(trial.job["checks"] for trial in _plan(tiny, tmp_path, none).trials)
    assert _point_keys(tiny, tmp_path, none) == _point_keys(tiny, tmp_path, some)


def test_images_are_crafted_on_the_other_dedicated_models_of_the_same_seed(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = _plan(tiny, tmp_path, "evaluate.attacks=[{name: transfer}]", "seeds=[0, 1]")
    for seed in (0, 1):
        mine = {t.label: t for t in plan.trials if t.seed == seed}
        dedicated = {t.run_key for label, t in mine.items() if not label.startswith("oat")}
        assert len(dedicated) == 3
        for trial in mine.values():
            for point in trial.job["points"]:
                assert point["sources"] == sorted(dedicated - {trial.run_key})


def test_images_are_crafted_at_every_other_lam_of_a_network_that_has_them(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = _plan(tiny, tmp_path, "evaluate.attacks=[{every_lam: true}]", "evaluate.lams=[0, 1]")
    others = [[p.get("other_lams") for p in trial.job["points"]] for trial in plan.trials]
    assert others == [[[1], [0]], [None], [None], [None]]


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
