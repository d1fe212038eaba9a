"""Networks, attacks and data that users bring: what holds of them, what is wrong with theirs."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import studies
from baselines import PgdAt
from oat import own_code
from oat.data import DataConfig, DataError, load
from oat.deploy import condition, fold, specialize
from oat.evaluation import evaluate
from oat.knob import Knob
from oat.method import Oat
from oat.models import ModelConfig, build, build_unfilled, flops, forward_flops, in_situ_cost
from oat.own_attack import attack_class
from oat.own_code import OwnCodeError, allow
from studies.errors import StudyError
from studies.planning.run_keys import run_keys
from studies.study_file.attack_blocks import ATTACK_BLOCKS
from studies.study_file.loading import load_study
from studies.testing import check_attack, check_data, check_network

NETWORK = """
import torch
from torch import nn

def net(in_channels, num_classes, width=6, fault=""):
    norm = {
        "": lambda: nn.BatchNorm2d(width),
        "no norm": nn.Identity,
        "odd norm": lambda: nn.BatchNorm2d(width, momentum=0.5),
        "1d norm": lambda: nn.Sequential(
            nn.Flatten(2), nn.BatchNorm1d(width), nn.Unflatten(2, (8, 8))
        ),
    }.get(fault, lambda: nn.BatchNorm2d(width))()
    body = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1), norm, nn.ReLU(), nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, num_classes),
    )
    hidden = torch.randn(num_classes)

    class Faulty(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body
            self.idle = nn.Linear(2, 2) if fault == "idle" else nn.Identity()

        def forward(self, images):
            if fault == "raises":
                raise RuntimeError("mine")
            out = self.body(images)
            if fault == "shape":
                return out[:, :2]
            if fault == "infinite":
                return out / 0
            if fault == "rows":
                return out - out.mean(0)
            if fault == "random":
                return out + torch.rand(())
            if fault == "hidden":
                return out + hidden
            if fault == "blind":
                return self.body(images.detach())
            return out

    if fault == "no parameters":
        return nn.Flatten()
    return (lambda images: images) if fault == "no module" else Faulty()
"""

ATTACK = """
import torch

def attack(logits_fn, images, labels, *, eps, generator, fault: str = ""):
    noise = torch.rand(images.shape, generator=generator, device=images.device)
    made = (images + eps * (2 * noise - 1)).clamp(0, 1)
    if fault == "raises":
        raise KeyError("mine")
    if fault == "lost":
        raise torch.AcceleratorError("the device is lost")
    if fault == "random":
        return (images + eps * torch.rand(images.shape)).clamp(0, 1)
    return {
        "far": (images + 3 * eps).clamp(0, 1), "box": images - 2, "shape": made[:1], "none": None,
        "nan": made * float("nan"), "double": made.double(),
    }.get(fault, made)

def no_generator(logits_fn, images, labels, *, eps): ...
def no_type(logits_fn, images, labels, *, eps, generator, size=3): ...
def no_default(logits_fn, images, labels, *, eps, generator, size: int): ...
def many(logits_fn, images, labels, *, eps, generator, **options): ...
def taken(logits_fn, images, labels, *, eps, generator, name: str = ""): ...
number = 3
"""

DATA = """
import torch
from oat.data import Source, Split

def data(root, fault="", sides=8):
    def half(count):
        images = torch.rand(count, 1, sides, sides, generator=torch.Generator().manual_seed(count))
        return Split(images, torch.arange(count) % 3)
    train, test, classes = half(60), half(30), ("a", "b", "c")
    if fault == "raises":
        raise FileNotFoundError(str(root / "none"))
    if fault == "tuple":
        return train, test
    if fault == "classes":
        classes = ()
    if fault == "range":
        train = Split(255 * train.images, train.labels)
    if fault == "double":
        train = Split(train.images.double(), train.labels)
    if fault == "labels":
        test = Split(test.images, test.labels.float())
    if fault == "flat":
        test = Split(test.images.flatten(1), test.labels)
    if fault == "channels last":
        train = Split(torch.zeros(60, 16, 16, 3, dtype=torch.uint8), train.labels)
    if fault == "one class":
        train = Split(train.images, torch.zeros_like(train.labels))
    if fault == "exits":
        raise SystemExit(3)
    if fault == "gap":
        classes = ("a", "b", "c", "d")
    if fault == "class":
        test = Split(test.images, test.labels + 1)
    return Source(train, test, classes)
"""
STUDY: dict[str, Any] = {
    "name": "mine",
    "data": {"name": "theirs.data:data"},
    "model": {"name": "theirs.net:net", "args": {"width": 4}},
    "methods": [{"name": "oat"}, {"name": "pgd_at", "lam": 1}],
    "evaluate": {"attacks": [{"name": "pgd"}, {"name": "theirs.attack:attack", "eps": [0.1, 0.2]}]},
}
NAMES = ("theirs.data:data", "theirs.net:net", "theirs.attack:attack")


@pytest.fixture(autouse=True)
def _theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of the user's in the folder in which commands are called; nothing of it stays."""
    (tmp_path / "theirs").mkdir()
    files = {"__init__": "", "net": NETWORK, "attack": ATTACK, "data": DATA}
    for name, text in files.items():
        (tmp_path / "theirs" / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(own_code, "ALLOWED", set())
    allow(NAMES)
    _forget()
    yield
    _forget()


def _forget() -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == "theirs"]:
        del sys.modules[module]
    own_code._import.cache_clear()
    load.cache_clear()
    forward_flops.__globals__["_counted"].cache_clear()
    for name in NAMES:
        ATTACK_BLOCKS.pop(name, None)


def _model(**args: Any) -> ModelConfig:
    return ModelConfig("theirs.net:net", args=args)


@pytest.mark.parametrize("method", [Oat(), Oat(dual_bn=False), PgdAt(0.5)], ids=str)
def test_view_network_and_folded_network_agree(method: Any) -> None:
    net = build(_model(), in_channels=3, num_classes=5, conditioning=method.conditioning())
    images = torch.rand(6, 3, 8, 8)
    for _ in range(3):  # statistics that nobody could take for the initial ones
        for lam in (0.0, 0.4) if net.encoding else (None,):
            net.logits(images, condition(net, lam))
    for name, value in net.named_parameters():
        if "film" in name:
            value.data.normal_(0.2, 0.5)
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for lam in (0.0, 0.4) if net.encoding else (None,):
        seen = specialize(net, condition(net, lam))(images)
        assert [module.training for module in net.modules()] == modes
        folded = fold(net, lam)
        assert torch.allclose(folded(images), seen, atol=1e-5)
        net.eval()
        assert torch.allclose(net.logits(images, condition(net, lam)), seen, atol=1e-5)
        net.train()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    if net.encoding is not None:
        lams = torch.tensor([0.0, 0.1, 0.4, 0.4, 1.0, 0.5])
        logits = Knob(net)(images, lams)
        assert torch.allclose(logits[2], fold(net, 0.4)(images)[2], atol=1e-5)
        assert torch.allclose(logits[0], fold(net, 0.0)(images)[0], atol=1e-5)
        assert logits[5].isnan().all()


def test_its_operations_are_counted_and_an_unfilled_one_can_be_filled() -> None:
    net, shape = build(_model(), in_channels=3, num_classes=5), (3, 8, 8)
    by_hand = 2 * 8 * 8 * 3 * 6 * 9 + 2 * 24 * 5
    assert flops(fold(net, None), shape) == forward_flops(_model(), shape, 5) == by_hand
    assert in_situ_cost(net, shape).flops == by_hand
    other = build_unfilled(_model(), in_channels=3, num_classes=5)
    other.load_state_dict(net.state_dict())
    images = torch.rand(4, *shape)
    assert torch.equal(other.eval()(images), net.eval()(images))


def test_a_network_of_attention_counts_all_of_its_operations(tmp_path: Path) -> None:
    (tmp_path / "theirs" / "net.py").write_text(
        "from torch import nn\n"
        "class net(nn.Module):\n"
        "    def __init__(self, in_channels, num_classes):\n"
        "        super().__init__()\n"
        "        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)\n"
        "        self.head = nn.Linear(8, num_classes)\n"
        "    def forward(self, images):\n"
        "        return self.head(self.layer(images.flatten(1, 2)).mean(1))\n"
    )
    tokens, dim, hidden = 8, 8, 16
    projections = 4 * dim * dim + 2 * dim * hidden
    by_hand = 2 * tokens * projections + 2 * 2 * tokens * tokens * dim + 2 * dim * 5
    assert forward_flops(_model(), (1, 8, 8), 5) == by_hand


NETWORK_FAULTS = {
    "shape": r"must give logits of shape \(4, 5\) for 4 images of shape \(1, 8, 8\), got \(4, 2\)",
    "infinite": "gives logits that are not finite",
    "rows": "must judge each image by itself in eval mode",
    "random": "each image by itself|the same logits twice",
    "hidden": "something that decides its logits is in no parameter and no buffer",
    "blind": "gives no gradient to its images, so that no attack sees them",
    "idle": "never uses its parameter 'idle.weight'",
    "raises": r"failed \(net.py, line 28\): RuntimeError: mine",
    "no parameters": "has no parameters, so that nothing of it can be trained",
    "no module": "must return a torch.nn.Module, got function",
}


@pytest.mark.parametrize("fault", NETWORK_FAULTS)
def test_the_check_finds_what_is_wrong_with_a_network(fault: str) -> None:
    shape = {"image_shape": (1, 8, 8), "num_classes": 5}
    check_network("theirs.net:net", **shape, lam=True)  # type: ignore[arg-type]
    with pytest.raises(OwnCodeError, match=NETWORK_FAULTS[fault]):
        check_network("theirs.net:net", **shape, args={"fault": fault})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no norm", "has no `torch.nn.BatchNorm2d`, through which λ reaches a network"),
        ("odd norm", "`torch.nn.BatchNorm2d` itself, .* and no hooks, got BatchNorm2d"),
        ("1d norm", "`torch.nn.BatchNorm2d` itself, .* and no hooks, got BatchNorm1d"),
    ],
)
def test_a_network_that_lambda_cannot_reach_is_for_dedicated_methods_alone(
    fault: str, said: str
) -> None:
    shape: Any = {"image_shape": (1, 8, 8), "num_classes": 5, "args": {"fault": fault}}
    check_network("theirs.net:net", **shape)
    with pytest.raises(OwnCodeError, match=said):
        check_network("theirs.net:net", **shape, lam=True)


def test_an_attack_is_judged_by_what_it_returns_and_draws_from_the_seed_alone() -> None:
    split = load(DataConfig("theirs.data:data")).test
    weight = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))

    def logits_fn(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ weight

    kind: Any = attack_class("theirs.attack:attack")
    attack = kind(eps=0.3)
    found = evaluate(logits_fn, split, attack, batch_size=20)
    again = evaluate(logits_fn, split, attack, batch_size=20)
    assert torch.equal(found.robust, again.robust)
    assert not (found.robust & ~found.clean).any()
    images = split.images[:20]
    draw = torch.Generator().manual_seed(20)
    made = attack.craft(logits_fn, images, split.labels[:20], draw)
    right = logits_fn(images).argmax(1) == split.labels[:20]
    withstood = right & (logits_fn(made).argmax(1) == split.labels[:20])
    assert torch.equal(found.robust[:20], withstood)
    assert (kind(eps=0.3).label, kind(eps=0.3, fault="x").label) == ("attack", "attack-faultx")


ATTACK_FAULTS = {
    "far": r"must stay within `eps` 0.1 of the images, got a distance of 0\.3",
    "box": r"must stay in \[0, 1\], got values from -[12]",
    "shape": r"must return images of shape \(4, 3, 32, 32\), got \(1, 3, 32, 32\)",
    "none": r"must return images of shape \(4, 3, 32, 32\), got NoneType",
    "nan": "values that are not finite",
    "double": "must return images in torch.float32 on cpu, got torch.float64 on cpu",
    "random": "must draw from `generator` alone",
    "raises": r"failed \(attack.py, line 8\): KeyError: 'mine'",
}


@pytest.mark.parametrize("fault", ATTACK_FAULTS)
def test_the_check_finds_what_is_wrong_with_an_attack(fault: str) -> None:
    check_attack("theirs.attack:attack", eps=0.1)
    with pytest.raises(OwnCodeError, match=ATTACK_FAULTS[fault]):
        check_attack("theirs.attack:attack", eps=0.1, fault=fault)


def test_a_device_that_is_lost_in_an_attack_is_no_fault_of_the_attack() -> None:
    with pytest.raises(torch.AcceleratorError, match="the device is lost"):
        check_attack("theirs.attack:attack", eps=0.1, fault="lost")


DATA_FAULTS = {
    "raises": r"failed \(data.py, line 11\): FileNotFoundError: .*none",
    "tuple": "must return an `oat.data.Source`, got tuple",
    "classes": r"must name its classes, a text each, got \(\)",
    "range": r"`images` in float32 from 0 to 1, got values from .* in `train`",
    "double": "`images` in uint8, or in float32 from 0 to 1, got torch.float64 in `train`",
    "labels": r"`labels` of shape \(N,\) in int64, got shape \(30,\) in torch.float32 in `test`",
    "flat": r"`images` of shape \(N, C, H, W\), got shape \(30, 64\) .* in `test`",
    "channels last": r"got shape \(60, 16, 16, 3\) in torch.uint8, which may be \(N, H, W, C\)",
    "one class": "'theirs.data:data' have training images of one class alone",
    "exits": r"failed \(data.py, line \d+\): SystemExit: 3",
    "class": "'theirs.data:data' have a test image of class 3, but there are classes 0 to 2; mend",
}


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_the_check_finds_what_is_wrong_with_data(fault: str) -> None:
    assert check_data("theirs.data:data").image_shape == (1, 8, 8)
    with pytest.raises(DataError, match=DATA_FAULTS[fault]):
        check_data("theirs.data:data", args={"fault": fault})


def test_a_class_without_training_images_is_told() -> None:
    assert check_data("theirs.data:data").remarks == ()
    (said,) = check_data("theirs.data:data", args={"fault": "gap"}).remarks
    assert "1 of 4 classes have no training image" in said
    assert said.endswith("learn them: 'd'.")


def _set(*path: str | int) -> Callable[[Any], dict[str, Any]]:
    def change(value: Any) -> dict[str, Any]:
        study: Any = __import__("copy").deepcopy(STUDY)
        *parents, last = path
        place = study
        for key in parents:
            place = place[key]
        place[last] = value
        return study

    return change


STUDY_FAULTS: list[tuple[dict[str, Any], str]] = [
    (_set("data", "name")("theirs.none:data"), "There is no module 'theirs.none' of the data"),
    (_set("model", "name")("theirs.net:none"), "The module 'theirs.net' has no 'none'"),
    (_set("model", "name")("theirs.attack:number"), "must be a function or a class, got 3"),
    (_set("model", "width")(8), "`width` is for networks of ours"),
    (_set("model", "dropout")(0.1), "`dropout` is for networks of ours"),
    (_set("model", "args")({"a": {1, 2}}), "`args` must hold numbers, text, truth values"),
    (_set("model", "name")("resnet8"), "`args` must be left out for resnet8"),
    (_set("data")({"name": "digits", "args": {"a": 1}}), "`args` must be left out for digits"),
    (_set("data", "image_size")(8), "`image_size` must be left out for theirs.data:data"),
    (_set("methods")([{"name": "oats"}]), "as it is a network of your own; leave `oats` and"),
    (
        _set("methods")([{"name": "pgd_at", "width_mults": [0.5]}]),
        "pgd_at has the width 0.5, and `model` 'theirs.net:net' has no widths",
    ),
    *(
        (_set("evaluate", "attacks")([{"name": f"theirs.attack:{name}"}]), said)
        for name, said in {
            "no_generator": "must take logits_fn, images, labels, eps, generator; it lacks gen",
            "no_type": "The option `size` of the attack 'theirs.attack:no_type' must have a type",
            "no_default": "The option `size` of the attack 'theirs.attack:no_default' needs a",
            "many": "must name its options, got `*options`",
            "taken": "The option `name` of the attack 'theirs.attack:taken' may not have that name",
            "number": "must be a function or a class, got 3",
            "none": "The module 'theirs.attack' has no 'none'",
        }.items()
    ),
    (
        _set("evaluate", "attacks")([{"name": "theirs.attack:attack", "size": 3}]),
        "Unknown key 'evaluate.attacks.0.size'",
    ),
]


@pytest.mark.parametrize("case", range(len(STUDY_FAULTS)))
def test_what_is_wrong_in_a_study_file_is_one_sentence(case: int) -> None:
    study, said = STUDY_FAULTS[case]
    with pytest.raises(StudyError) as refused:
        load_study(study)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_study_with_them_round_trips_and_editors_take_it() -> None:
    study = load_study(STUDY)
    assert load_study(study.dump()) == study
    assert [study.label_of(a) for a in study.attacks()] == ["pgd20", "attack@0.1", "attack@0.2"]
    jsonschema.validate(STUDY, studies.schema())
    assert study.own_code() == dict(zip(NAMES, ("data", "network", "attack"), strict=True))


def test_the_code_of_a_network_is_in_run_keys_and_that_of_an_attack_in_point_keys(
    tmp_path: Path,
) -> None:
    from studies.planning.expand import make_plan
    from studies.storage.local import LocalFolder

    def keys() -> tuple[set[str], set[str]]:
        plan = make_plan(load_study(STUDY), LocalFolder(tmp_path / "out"))
        points = itertools.chain.from_iterable(trial.job["points"] for trial in plan.trials)
        return {trial.run_key for trial in plan.trials}, {p["point_key"] for p in points}

    runs, points = keys()
    for name in ("attack", "data", "net"):
        with (tmp_path / "theirs" / f"{name}.py").open("a") as file:
            file.write("# a remark\n")
        if name != "data":  # the digest of the images is kept instead
            with pytest.raises((StudyError, OwnCodeError), match="has changed since this process"):
                keys()
        _forget()
        new_runs, new_points = keys()
        assert (new_runs == runs) == (name != "net"), name
        assert len(new_points & points) == {"attack": 7, "data": 21, "net": 0}[name], name
        runs, points = new_runs, new_points
    assert run_keys(load_study(STUDY)) == runs
