from pathlib import Path
from typing import Any

from tests.studies.planning.plans import plan_of


def _point_keys(source: dict[str, Any], storage: Path, *overrides: str) -> list[str]:
    plan = plan_of(source, storage, *overrides)
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
    plan = plan_of(tiny, tmp_path, f"evaluate.attacks=[{', '.join(OPTIONS)}]")
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
    trials = plan_of(tiny, tmp_path, some).trials
    assert [len(trial.job["checks"]) for trial in trials] == [2, 1, 1, 1]
    assert not any(trial.job["checks"] for trial in plan_of(tiny, tmp_path, none).trials)
    assert _point_keys(tiny, tmp_path, none) == _point_keys(tiny, tmp_path, some)


def test_images_are_crafted_on_the_other_dedicated_models_of_the_same_seed(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = plan_of(tiny, tmp_path, "evaluate.attacks=[{name: transfer}]", "seeds=[0, 1]")
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
    plan = plan_of(tiny, tmp_path, "evaluate.attacks=[{every_lam: true}]", "evaluate.lams=[0, 1]")
    others = [[p.get("other_lams") for p in trial.job["points"]] for trial in plan.trials]
    assert others == [[[1], [0]], [None], [None], [None]]


def test_images_are_crafted_at_every_other_alpha_of_a_pair(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    tiny["methods"][0] = {"name": "mix", "of": ["pgd_at λ=0", "pgd_at λ=1"], "alphas": [0, 0.9, 1]}
    plan = plan_of(tiny, tmp_path, "evaluate.attacks=[{every_lam: true}]")
    mine = [t.job["points"] for t in plan.trials if t.label.startswith("mix")]
    assert [point["other_lams"] for point in mine[0]] == [[0.9, 1], [0, 1], [0, 0.9]]
