from typing import Any

import pytest
import torch
from torch import Tensor

from oat.adversaries import (
    ATTACKS,
    AnyAttack,
    AutoAttack,
    EvaluationAttack,
    Fgsm,
    Pgd,
    Square,
    Transfer,
    check_classes,
)
from oat.data import Split
from oat.evaluation import evaluate

LABELS: dict[str, AnyAttack] = {
    "pgd20": Pgd(),
    "pgd50": Pgd(steps=50),
    "pgd20x10": Pgd(restarts=10),
    "pgd20-cw": Pgd(loss="cw"),
    "pgd20-dlr": Pgd(loss="dlr"),
    "pgd20-momentum1": Pgd(momentum=1),
    "pgd20-momentum0.5": Pgd(momentum=0.5),
    "pgd20-step0.01": Pgd(step_size=0.01),
    "pgd20-every-lam": Pgd(every_lam=True),
    "pgd50x10-cw-momentum1-step0.01-every-lam": Pgd(
        steps=50, restarts=10, loss="cw", momentum=1, step_size=0.01, every_lam=True
    ),
    "fgsm": Fgsm(),
    "fgsm-cw": Fgsm(loss="cw"),
    "fgsm-dlr": Fgsm(loss="dlr"),
    "autoattack": AutoAttack(),
    "autoattack-4targets": AutoAttack(targets=4),
    "square5000": Square(),
    "square100": Square(queries=100),
    "transfer20": Transfer(),
    "transfer7-step0.02": Transfer(steps=7, step_size=0.02),
}


@pytest.mark.parametrize("label", LABELS)
def test_every_attack_is_labelled_by_what_sets_it_apart(label: str) -> None:
    assert LABELS[label].label == label


def test_an_attack_is_found_by_the_name_it_has() -> None:
    for name, kind in ATTACKS.items():
        assert kind().name == name
        assert kind().label.startswith(name)
    assert {type(attack) for attack in LABELS.values()} == set(ATTACKS.values())


@pytest.mark.parametrize("eps", [0.0, 0.03, 1.0])
@pytest.mark.parametrize("kind", ATTACKS.values())
def test_radius_and_number_of_images_are_no_part_of_the_label(
    kind: type[AnyAttack], eps: float
) -> None:
    attack = kind(eps=eps, images=7)
    assert (attack.radius(), attack.label) == (eps, kind().label)


def test_a_step_is_the_papers_share_of_the_radius_unless_it_is_given() -> None:
    assert Pgd(eps=0.1).step() == pytest.approx(0.0125)
    assert Transfer(eps=0.1, steps=5).step() == pytest.approx(0.05)
    assert Transfer(eps=0.1, step_size=0.3).step() == 0.3
    assert Fgsm(eps=0.1).step() == 0.1
    assert AutoAttack(eps=0.1).step() is None
    assert Square(eps=0.1).step() is None


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        *[
            (kind, {"eps": 8.0}, "`eps` must be in .*, got 8; .* 8/255")
            for kind in ATTACKS.values()
        ],
        *[(kind, {"eps": 1.001}, "`eps`") for kind in ATTACKS.values()],
        *[(kind, {"eps": -0.1}, "`eps`") for kind in ATTACKS.values()],
        *[(kind, {"eps": float("nan")}, "`eps`") for kind in ATTACKS.values()],
        *[(kind, {"images": 0}, "`images` must be at least 1, got 0") for kind in ATTACKS.values()],
        *[(kind, {"steps": 0}, "`steps` must be at least 1, got 0") for kind in (Pgd, Transfer)],
        *[(kind, {"step_size": 0}, "`step_size` must be .* above 0") for kind in (Pgd, Transfer)],
        *[(kind, {"step_size": -1}, "`step_size`") for kind in (Pgd, Transfer)],
        *[(kind, {"step_size": float("nan")}, "`step_size`") for kind in (Pgd, Transfer)],
        (Pgd, {"restarts": 0}, "`restarts` must be at least 1, got 0"),
        (Pgd, {"momentum": -0.1}, "`momentum` must be in .*, got -0.1"),
        (Pgd, {"momentum": 1.1}, "`momentum`"),
        (Pgd, {"momentum": float("nan")}, "`momentum`"),
        (AutoAttack, {"targets": 2}, "`targets` must be from 3 to 9, got 2"),
        (AutoAttack, {"targets": 10}, "`targets` must be from 3 to 9, got 10"),
        (Square, {"queries": 0}, "`queries` must be at least 1, got 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(
    kind: type[AnyAttack], values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        kind(**values)


@pytest.mark.parametrize(
    ("attack", "classes", "said"),
    [
        (AutoAttack(), 9, "9 target classes needs at least 10 classes, .* 9; set `targets: 8`"),
        (AutoAttack(), 5, "9 target classes needs at least 10 classes, .* 5; set `targets: 4`"),
        (AutoAttack(targets=4), 4, "4 target .* at least 5 classes, .* 4; set `targets: 3`"),
        (AutoAttack(targets=3), 3, "at least 4 classes, .* 3; use `square`, and `pgd` .* `cw`"),
        (AutoAttack(), 2, "at least 10 classes, .* 2; use `square`"),
        (Pgd(loss="dlr"), 2, "`dlr` needs at least 3 classes, the data have 2"),
        (Fgsm(loss="dlr"), 2, "`dlr` needs at least 3 classes, the data have 2"),
    ],
)
def test_too_few_classes_are_refused_with_what_would_fit(
    attack: EvaluationAttack, classes: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_classes(attack, classes)


def test_what_is_said_to_fit_is_not_refused() -> None:
    for classes in range(4, 12):
        check_classes(AutoAttack(targets=min(classes - 1, 9)), classes)
    for attack in (Square(), Pgd(loss="cw"), Fgsm(loss="cw"), Pgd(), Fgsm(), Transfer()):
        check_classes(attack, 2)
    check_classes(Pgd(loss="dlr"), 3)


@pytest.mark.parametrize(
    "attack",
    [Pgd(eps=0.01), Pgd(eps=0.01, steps=3, restarts=4, momentum=1, loss="cw"), Fgsm(eps=0.01)],
    ids=lambda attack: attack.label,
)
def test_passes_are_those_of_an_image_that_withstands_it(
    attack: Pgd | Fgsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less the looks at the clean image, which is planned for beside, and at each last iterate."""
    forward = backward = 0

    def sure(images: Tensor) -> Tensor:
        nonlocal forward
        forward += len(images)
        x = images.flatten(1)
        return torch.stack([x.sum(dim=1) + 50, -x.sum(dim=1)], dim=1)

    plain = torch.autograd.grad

    def counted(outputs: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
        nonlocal backward
        backward += len(inputs)
        return plain(outputs, inputs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    split = Split(torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long))
    assert evaluate(sure, split, attack).ra == 1
    starts = attack.restarts if isinstance(attack, Pgd) else 1
    assert forward + backward == 3 * (1 + attack.passes() + starts)


def test_passes_of_black_boxes_and_ensembles() -> None:
    assert Square(queries=300).passes() == 300
    assert Transfer(steps=7).passes() == 14
    # Croce and Hein, section 5: 100 steps of each of 9 targets, twice, 5000 queries
    assert AutoAttack().passes() == 200 + 9 * 200 + 9 * 300 + 5000
    assert AutoAttack(targets=4).passes() < AutoAttack().passes()
