import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studies.planning import run_keys as planning
from tests.studies.planning.plans import keys_of, plan_of


def test_judging_in_tf32_is_another_point_of_the_same_training(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    checked = "evaluate.masking_images=10"
    exact = plan_of(tiny, tmp_path, checked).trials
    same = plan_of(tiny, tmp_path, checked, "evaluate.tf32=false").trials
    rounded = plan_of(tiny, tmp_path, checked, "evaluate.tf32=true").trials
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
    assert json.loads(found.stdout) == keys_of(tiny, tmp_path)


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
    assert keys_of(tiny, tmp_path, override) == keys_of(tiny, tmp_path)


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
    assert not set(keys_of(tiny, tmp_path, override)) & set(keys_of(tiny, tmp_path))


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
    before, after = keys_of(tiny, tmp_path), keys_of(tiny, tmp_path, override)
    assert before[0] != after[0]
    assert before[1:] == after[1:]


def test_a_new_version_of_the_results_makes_every_key_new(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys_of(tiny, tmp_path)
    monkeypatch.setattr(planning, "RESULTS_VERSION", 10_000)
    assert not set(before) & set(keys_of(tiny, tmp_path))


def test_the_order_of_keys_in_the_file_does_not_matter(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    turned = {key: tiny[key] for key in reversed(tiny)}
    turned["train"] = {key: tiny["train"][key] for key in reversed(tiny["train"])}
    assert keys_of(turned, tmp_path) == keys_of(tiny, tmp_path)


def test_points_have_keys_over_all_that_decides_their_numbers(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    def points(*overrides: str) -> set[str]:
        trials = plan_of(tiny, tmp_path, *overrides).trials
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
    trials = plan_of(source, tmp_path).trials
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
    assert keys_of(tiny, tmp_path, override) == keys_of(tiny, tmp_path)
