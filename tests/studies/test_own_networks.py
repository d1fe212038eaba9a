"""Odd code of users: norms that do more than one, modules in two places, code in two files."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from oat import own_code
from oat.data import DataConfig, DataError, load
from oat.deploy import condition, fold, specialize
from oat.method import Oat
from oat.models import Conditioning, ModelConfig, build, stored_bytes
from oat.models.compute import AS_IT_IS, Compute
from oat.own_attack import attack_class
from oat.own_code import OwnCodeError, allow, digest_of
from oat.statistics import take_statistics
from studies.errors import StudyError
from studies.known_methods import METHODS
from studies.study_file.loading import load_study
from studies.study_file.method_blocks import METHOD_BLOCKS
from studies.testing import check_data, check_network
from studies.trial.weights import pack

NETS = """
import torch
from torch import nn

class Active(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()

class Twice(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.one, self.other = norm, norm

    def forward(self, x):
        return self.other(self.conv(self.one(x).relu()))

class Look(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        for part in self.body:
            x = part(x) * (2 if isinstance(part, nn.BatchNorm2d) else 1)
        return x

class Keep(nn.Module):
    def forward(self, x):
        self.kept = x
        return x

class Two(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        out = self.body(x)
        return (out, out) if self.training else out

class View(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)

class Root(nn.Module):
    def forward(self, x):
        return torch.where(x > 0, x.sqrt(), torch.zeros_like(x))

class Quarters(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        parts = [half for rows in x.chunk(2, 2) for half in rows.chunk(2, 3)]
        return self.body(torch.cat(parts)).reshape(4, len(x), -1).mean(0)

def net(in_channels, num_classes, kind="", zero=False):
    norm = Active(4) if kind == "active" else nn.BatchNorm2d(4)
    if kind == "hook":
        norm.register_forward_hook(lambda module, given, out: out * 2)
    if zero:
        nn.init.zeros_(norm.weight)
        norm.running_mean += 3
    parts = [nn.Conv2d(in_channels, 4, 3, padding=1), Twice(norm) if kind == "twice" else norm]
    parts += [Root()] if kind == "root" else []
    parts += [nn.ReLU(), nn.AdaptiveAvgPool2d(2), View() if kind == "view" else nn.Flatten()]
    parts += [Keep()] if kind == "keep" else []
    parts += [nn.Linear(16, 8), nn.BatchNorm1d(8)] if kind == "1d" else []
    body = nn.Sequential(*parts, nn.Linear(8 if kind == "1d" else 16, num_classes))
    return {"two": Two, "look": Look, "quarters": Quarters}.get(kind, lambda body: body)(body)
"""
ATTACKS = """
def options(logits_fn, images, labels, *, eps, generator, sizes: list[int] = [1, 2],
            norm: str = "Linf"):
    return images

def step(logits_fn, images, labels, *, eps, generator, step: float = 0.1): ...
def passes(logits_fn, images, labels, *, eps, generator, passes: int = 1): ...
def pgd20(logits_fn, images, labels, *, eps, generator): ...
def square_patch(logits_fn, images, labels, *, eps, generator): ...
"""
METHODS_OF_THEIRS = """
from dataclasses import dataclass
from baselines import PgdAt

@dataclass(frozen=True)
class Alphas(PgdAt):
    alphas: tuple[float, ...] = (0.1, 0.2)

@dataclass(frozen=True)
class Code(PgdAt):
    code: int = 1

@dataclass(frozen=True)
class Train(PgdAt):
    train: float = 1.0
"""
DATA = """
import torch
from oat.data import Source, Split

def data(root, shape=(1, 4, 16), classes="ab", fault=""):
    def half(count):
        images = torch.arange(count * 64, dtype=torch.uint8).reshape(count, *shape)
        return Split(images, torch.arange(count) % 2)
    train = half(20)
    if fault == "no split":
        train = (train.images, train.labels)
    if fault == "no channels":
        train = Split(train.images[:, :0], train.labels)
    if fault == "layout":
        images = train.images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
        train = Split(images, train.labels)
    if fault == "gradient":
        train = Split((train.images / 255).requires_grad_(), train.labels)
    return Source(train, half(10), tuple(classes))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the user's modules, in which commands are called; nothing of it stays."""
    files = {"odd_nets": NETS, "odd_attacks": ATTACKS, "odd_methods": METHODS_OF_THEIRS}
    for name, text in {**files, "odd_data": DATA}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(own_code, "ALLOWED", set())
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    allow(["odd_nets:net", "odd_data:data", "impl:net", "named:net", "wrapped:net", "late:net"])
    before = set(sys.modules)
    own_code._import.cache_clear()
    yield tmp_path
    for module in set(sys.modules) - before:
        if hasattr(sys.modules[module], "__file__") and str(tmp_path) in str(
            sys.modules[module].__file__
        ):
            del sys.modules[module]
    own_code._import.cache_clear()
    load.cache_clear()
    for known in (METHODS, METHOD_BLOCKS):
        for name in [name for name in known if name.startswith("odd_")]:
            del known[name]


def _net(kind: str = "", conditioning: Conditioning | None = None, **args: Any) -> Any:
    config = ModelConfig("odd_nets:net", args={"kind": kind, **args})
    torch.manual_seed(0)
    return build(config, in_channels=1, num_classes=5, conditioning=conditioning or Conditioning())


def _drawn(network: nn.Module) -> Any:
    """Give batch norms statistics that nobody could take for the initial ones."""
    with torch.no_grad():
        for _ in range(3):
            for lam in (0.0, 0.4) if network.encoding else (None,):  # type: ignore[union-attr]
                network.logits(3 * torch.rand(6, 1, 8, 8), condition(network, lam))  # type: ignore[arg-type, operator]
    return network.eval()


@pytest.mark.parametrize("kind", ["", "active", "hook", "twice", "1d"])
def test_a_network_is_the_same_in_training_attacks_and_evaluation(kind: str) -> None:
    network, images = _drawn(_net(kind)), torch.rand(6, 1, 8, 8)
    logits = network.logits(images, condition(network, None))
    assert torch.allclose(specialize(network, condition(network, None))(images), logits, atol=1e-5)
    assert torch.allclose(fold(network, None)(images), logits, atol=1e-5)


@pytest.mark.parametrize("kind", ["active", "hook"])
def test_a_norm_that_does_more_than_a_batch_norm_takes_no_lambda(kind: str) -> None:
    check_network("odd_nets:net", image_shape=(1, 8, 8), num_classes=5, args={"kind": kind})
    with pytest.raises(OwnCodeError, match="pgd_at and trades can train it, oat cannot"):
        check_network(
            "odd_nets:net", image_shape=(1, 8, 8), num_classes=5, args={"kind": kind}, lam=True
        )


@pytest.mark.parametrize("dual_bn", [True, False])
def test_a_norm_with_two_places_is_one_norm_of_ours_in_both(dual_bn: bool) -> None:
    network = _drawn(_net("twice", Oat(dual_bn=dual_bn).conditioning()))
    block = network.body[1]
    assert block.one is block.other
    assert len(network.units()) == 1
    assert not any(type(m) is nn.BatchNorm2d for m in network.body.children())
    images = torch.rand(6, 1, 8, 8)
    for lam in (0.0, 0.4):
        logits = network.logits(images, condition(network, lam))
        assert torch.allclose(fold(network, lam)(images), logits, atol=1e-5)


@pytest.mark.parametrize("dual_bn", [True, False])
def test_oat_begins_with_the_weights_and_statistics_of_their_norms(dual_bn: bool) -> None:
    plain, images = _net("", zero=True).eval(), torch.rand(6, 1, 8, 8)
    oat = _net("", Oat(dual_bn=dual_bn).conditioning(), zero=True).eval()
    for part in (0, -1):  # the code of λ was drawn before these
        oat.body[part].load_state_dict(plain.body[part].state_dict())
    expected = plain.logits(images, condition(plain, None))
    for lam in (0.0, 0.4):  # FiLM begins as the identity
        assert torch.allclose(oat.logits(images, condition(oat, lam)), expected, atol=1e-5)


def test_a_module_with_two_places_is_written_and_read_and_counted_once() -> None:
    network = _drawn(_net("twice"))
    again = _net("twice")
    again.load_state_dict(load_tensors(pack(network.state_dict(), {})))
    images = torch.rand(6, 1, 8, 8)
    logits = (n.eval().logits(images, condition(n, None)) for n in (network, again))
    assert torch.equal(*logits)
    tensors = [*network.parameters(), *network.buffers()]  # torch counts each once
    assert stored_bytes(network) == sum(t.numel() * t.element_size() for t in tensors)


def test_averaged_weights_take_the_statistics_of_batch_norms_of_any_dimension() -> None:
    network = _net("1d")
    batches = [(torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64)) for _ in range(5)]
    seen: list[Tensor] = []
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm1d))
    norm.num_batches_tracked += 1
    norm.running_var.fill_(100)
    norm.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))

    def passes(images: Tensor, labels: Tensor) -> Iterator[Tensor]:
        yield network(images).sum()

    take_statistics(network, batches, passes, len(batches))
    assert torch.allclose(norm.running_var, torch.stack([x.var(0) for x in seen]).mean(0))


FAULTS = {
    "view": r"failed \(odd_nets.py, line \d+\): RuntimeError: view size is not compatible",
    "keep": "must allow `copy.deepcopy` after a pass in train mode, which fails: Only Tensors",
    "two": "must return its logits as one tensor, got tuple in train mode",
    "look": "has other logits once its batch norms are folded into scales and shifts",
    "root": "gives a gradient that is no number, so that no attack can climb it; a square root",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_trains_and_folds_a_network_as_a_trial_would(fault: str) -> None:
    check_network("odd_nets:net", image_shape=(1, 8, 8), num_classes=5)
    with pytest.raises(OwnCodeError, match=FAULTS[fault]):
        check_network("odd_nets:net", image_shape=(1, 8, 8), num_classes=5, args={"kind": fault})


def test_a_network_that_hides_which_rows_are_of_an_image_takes_no_lambda() -> None:
    shape = {"image_shape": (1, 8, 8), "num_classes": 5, "args": {"kind": "quarters"}}
    check_network("odd_nets:net", **shape)
    with pytest.raises(OwnCodeError, match="see 16 rows for 4 images, so that λ cannot be told"):
        check_network("odd_nets:net", lam=True, **shape)


@pytest.mark.parametrize("conditioning", [None, Conditioning((0.0, 1.0), dual_bn=True)])
def test_a_network_trained_in_bfloat16_is_judged_in_float32(
    conditioning: Conditioning | None,
) -> None:
    network = _net(conditioning=conditioning)
    network.compute = Compute(torch.bfloat16)
    lam = None if conditioning is None else 1.0
    images = torch.rand(6, 1, 8, 8)
    narrow = fold(network, lam)(images)
    network.compute = AS_IT_IS
    assert torch.equal(narrow, fold(network, lam)(images))


def test_the_view_of_a_network_of_theirs_runs_no_kernel_that_is_for_ours() -> None:
    network = _net(conditioning=Conditioning((0.0, 1.0), dual_bn=True))
    network.compute = Compute(compiled=True)  # which needs a GPU
    images, cond = torch.rand(6, 1, 8, 8), condition(network, 1.0)
    view = specialize(network, cond)
    assert torch.allclose(view(images), fold(network, 1.0)(images), atol=1e-5)


def _write(place: Path, name: str, text: str) -> None:
    (place / f"{name}.py").write_text(text)
    for module in ("impl", "named", "wrapped"):
        sys.modules.pop(module, None)
    own_code._import.cache_clear()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("named", "from impl import {} as net\n"),
        ("wrapped", "import functools, impl\n@functools.wraps(impl.small)\n"
         "def net(**given):\n    return impl.{}(**given)\n"),
    ],
)  # fmt: skip
def test_the_digest_is_of_the_named_file_and_of_the_one_that_it_takes_code_from(
    name: str, text: str, home: Path
) -> None:
    impl = "def small(**given): ...\ndef big(**given): ...\n"
    digests = []
    for code, which in ((impl, "small"), (impl, "big"), (impl + "# more\n", "big")):
        _write(home, "impl", code)
        _write(home, name, text.format(which))
        digests.append(digest_of(f"{name}:net", "network"))
    assert len(set(digests)) == 3


def test_code_that_changed_between_its_import_and_the_study_is_refused(home: Path) -> None:
    file = home / "late.py"
    file.write_text("def net(**given): ...\n")
    os.utime(file, (1_700_000_000, 1_700_000_000))
    sys.path.insert(0, str(home))
    __import__("late")
    assert digest_of("late:net", "network")
    own_code._import.cache_clear()
    file.write_text("def net(**given): return 1\n")
    with pytest.raises(OwnCodeError, match="has changed since this process imported it"):
        digest_of("late:net", "network")


def test_an_error_in_a_module_is_not_taken_for_a_missing_name(home: Path) -> None:
    (home / "late.py").write_text("import torch\ntorch.no_such_thing\n")
    with pytest.raises(OwnCodeError, match="cannot be imported: AttributeError: module 'torch'"):
        digest_of("late:net", "network")


def _fingerprint(**args: Any) -> str:
    load.cache_clear()
    return load(DataConfig("odd_data:data", args=args)).fingerprint


def test_the_fingerprint_of_own_data_tells_shapes_and_classes() -> None:
    found = {
        _fingerprint(),
        _fingerprint(shape=[1, 16, 4]),
        _fingerprint(shape=[4, 4, 4]),
        _fingerprint(classes="ba"),
    }
    assert len(found) == 4
    assert _fingerprint() in found


def test_own_images_are_laid_out_as_all_others_are() -> None:
    # noise is drawn in the order of memory
    found = []
    for fault in ("", "layout"):
        load.cache_clear()
        found.append(load(DataConfig("odd_data:data", args={"fault": fault})))
    for one, other in zip(*([data.train, data.val, data.test] for data in found), strict=True):
        assert other.images.is_contiguous()
        assert torch.equal(one.images, other.images)
    assert found[0].fingerprint == found[1].fingerprint


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no split", "must have an `oat.data.Split`, got tuple in `train`"),
        ("no channels", r"`images` with channels and pixels, got shape \(20, 0, 4, 16\)"),
        ("gradient", "must have `images` without gradients in `train`"),
    ],
)
def test_what_is_wrong_with_own_data_is_one_sentence(fault: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        check_data("odd_data:data", args={"fault": fault})


def _study(**changes: Any) -> dict[str, Any]:
    return {
        "name": "odd",
        "data": {"name": "digits"},
        "model": {"name": "resnet8", "width": 4},
        "methods": [{"name": "oat"}, {"name": "pgd_at", "lam": 1}],
        **changes,
    }


def test_options_of_attacks_are_frozen_and_their_labels_are_words() -> None:
    attacks = [
        {"name": "odd_attacks:options", "norm": norm, "sizes": [3]} for norm in ("L2", "L@2")
    ]
    study = load_study(_study(evaluate={"attacks": [{"name": "pgd"}, *attacks]}))
    labels = [study.label_of(attack) for attack in study.attacks()]
    assert labels == ["pgd20", "options-sizes3-normL2", "options-sizes3-normL_2"]
    assert all(hash(attack) for attack in study.attacks())
    assert study.attacks()[1].sizes == (3,)  # type: ignore[attr-defined]
    assert load_study(study.dump()) == study


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("step", "The option `step` of the attack 'odd_attacks:step' may not have that name"),
        ("passes", "The option `passes` of the attack 'odd_attacks:passes' may not have that name"),
        ("pgd20", "needs another name, as 'pgd' is one of ours"),
    ],
)
def test_an_attack_that_would_be_taken_for_something_else_is_refused(name: str, said: str) -> None:
    with pytest.raises(StudyError) as refused:
        load_study(_study(evaluate={"attacks": [{"name": f"odd_attacks:{name}"}]}))
    assert said in str(refused.value)


def test_a_name_that_begins_as_one_of_ours_is_another() -> None:
    allow(["odd_attacks:square_patch"])
    assert attack_class("odd_attacks:square_patch")(eps=0.1).label == "square_patch"


def test_a_field_of_a_method_of_theirs_is_part_of_its_key_whatever_it_is_called() -> None:
    from studies.planning.run_keys import run_keys

    entry = {"name": "odd_methods:Alphas", "lam": 1}
    keys = [
        run_keys(load_study(_study(methods=[{"name": "oat"}, {**entry, **more}])))
        for more in ({}, {"alphas": [0.7, 0.9]})
    ]
    assert len(keys[0] & keys[1]) == 1  # that of OAT


@pytest.mark.parametrize("name", ["Code", "Train"])
def test_a_field_that_means_something_else_in_a_study_file_is_refused(name: str) -> None:
    with pytest.raises(StudyError) as refused:
        load_study(_study(methods=[{"name": "oat"}, {"name": f"odd_methods:{name}", "lam": 1}]))
    assert f"may not have a field `{name.lower()}`" in str(refused.value)
