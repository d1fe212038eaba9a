"""Exported files agree with the network and need nothing of ours; others are not kept."""

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

import studies
from oat.data import Split
from studies.deploying import exporting
from studies.deploying.agreement import agree, refuse_if_apart, together
from studies.deploying.formats import write_onnx
from studies.errors import ModelError
from studies.study_file.loading import load_study
from tests.studies.conftest import TrainAll

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's exporters

POINT = {"at_lam": 1.0}


@pytest.fixture(scope="module")
def families(
    tmp_path_factory: pytest.TempPathFactory, tiny_file: Path, train_all: TrainAll
) -> Path:
    """A storage folder with a network of each family, of several widths, and a pair of one."""
    storage = tmp_path_factory.mktemp("families")
    for name in FAMILIES:
        train_all(_family(tiny_file, name), storage)
    return storage


PAIRED = "resnet8"
FAMILIES = (PAIRED, "resnet50", "wrn-10-1")


def _family(tiny_file: Path, name: str) -> Any:
    methods = ["{name: oats, lambda_choices: [0, 1], width_mults: [0.5, 1]}"]
    if name == PAIRED:
        methods += [
            "{name: pgd_at, lam: [0, 1]}",
            "{name: mix, of: [pgd_at λ=0, pgd_at λ=1], alphas: [0.5]}",
        ]
    few = ["evaluate.held_out_images=0", "evaluate.masking_images=0", "evaluate.images=10"]
    small = [f"model={{name: {name}, width: 8}}", "train.epochs=1"]
    return load_study(tiny_file, [f"name={name}", f"methods=[{', '.join(methods)}]", *small, *few])


def _onnx(path: Path, *inputs: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path.read_bytes())
    named = dict(zip(("images", "lam"), (one.numpy() for one in inputs), strict=False))
    return torch.from_numpy(session.run(["logits"], named)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "to"),
    [*((name, "onnx") for name in FAMILIES), ("resnet8", "pt2"), ("wrn-10-1", "pt2")],
)
def test_every_family_is_exported_whole_and_at_a_point(
    name: str, to: str, families: Path, tiny_file: Path, tmp_path: Path
) -> None:
    study = _family(tiny_file, name)
    model = studies.load_model(study, storage=families)
    images = torch.rand(3, *model.image_shape)
    run = _onnx if to == "onnx" else lambda path, *inputs: torch.export.load(path).module()(*inputs)
    for given in ({}, {"at_lam": 1.0, "at_width": 0.5}):
        out = tmp_path / f"some.{to}"
        done = studies.export(study, to=to, out=out, storage=families, **given)
        inputs = (images,) if given else (images, torch.tensor([0.0, 1.0, 0.0]))
        found = run(done.path, *inputs)
        if given:
            expected = model.at(1.0, 0.5)(images)
        else:
            expected = torch.cat(
                [model.at(lam)(images[i : i + 1]) for i, lam in enumerate((0.0, 1.0, 0.0))]
            )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["pt2", "onnx"])
def test_a_pair_is_exported_whole_and_at_a_point(
    to: str, families: Path, tiny_file: Path, tmp_path: Path
) -> None:
    study = _family(tiny_file, PAIRED)
    for given in ({}, {"at_lam": 0.25}):
        out = tmp_path / f"pair.{to}"
        done = studies.export(study, "mix", to=to, out=out, storage=families, **given)
        assert done.record["check"]["same_class"] == 1


@pytest.mark.parametrize("method", ["oat", "pgd_at", "trades"])
def test_safetensors_load_again_as_what_was_exported(
    method: str, finished: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    values = {"lam": 1.0} if method == "pgd_at" else {}
    model = studies.load_model(tiny, method, storage=finished, **values)
    point = POINT if method == "oat" else {}
    done = studies.export(
        tiny,
        method,
        to="safetensors",
        out=tmp_path / "a.safetensors",
        storage=finished,
        **values,
        **point,
    )
    again = studies.load_model(done.path)
    images = torch.rand(2, *model.image_shape)
    expected = model.at(1.0 if method == "oat" else None)(images)
    torch.testing.assert_close(again.at()(images), expected, rtol=1e-5, atol=1e-6)
    if method == "oat":
        assert not again.has_knob
        with pytest.raises(ModelError, match="at one operating point; leave `lam` out"):
            again.at(1.0)


def test_the_whole_knob_as_safetensors_is_the_trained_network(
    finished: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    done = studies.export(tiny, to="safetensors", out=tmp_path / "a.safetensors", storage=finished)
    model, again = studies.load_model(tiny, storage=finished), studies.load_model(done.path)
    for name, value in model.network.state_dict().items():
        torch.testing.assert_close(again.network.state_dict()[name], value, rtol=0, atol=0)


def test_the_record_says_what_the_file_is_and_what_its_check_has_shown(
    finished: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    done = studies.export(tiny, to="pt2", out=tmp_path / "a.pt2", storage=finished, **POINT)
    record = json.loads((tmp_path / "a.pt2.json").read_text())
    assert record == done.record
    assert record["sha256"] == hashlib.sha256(done.path.read_bytes()).hexdigest()
    assert (record["lam"], record["lams"], record["any_lam"]) == (1.0, [], False)
    assert record["image_shape"] == [1, 8, 8]
    assert record["check"]["images"] > 0
    assert record["check"]["largest_difference"] <= 1e-4
    whole = studies.export(tiny, to="pt2", out=tmp_path / "b.pt2", storage=finished).record
    assert (whole["lam"], whole["lams"], whole["check"]["lams"]) == (None, [0, 1], [0, 1])


ALONE = """
import sys, torch
network = torch.export.load(sys.argv[1]).module()
logits = network(torch.rand(5, 1, 8, 8), torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5]))
print(logits.isfinite().all(1).tolist())
print(sorted({name.partition(".")[0] for name in sys.modules} & {"oat", "studies", "baselines"}))
"""


@pytest.mark.slow
def test_an_exported_knob_runs_where_nothing_of_ours_is(
    finished: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    done = studies.export(tiny, to="pt2", out=tmp_path / "a.pt2", storage=finished)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE, done.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.splitlines() == ["[True, True, True, True, False]", "[]"], ended.stderr


def test_a_file_that_does_not_agree_with_its_network_is_not_kept(
    finished: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Off(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images) + 2e-3  # type: ignore[no-any-return]

    real = exporting.write_pt2
    monkeypatch.setattr(exporting, "write_pt2", lambda m, *rest: real(Off(m), *rest))
    out = tmp_path / "a.pt2"
    with pytest.raises(ModelError, match=r"does not agree .* differ by up to 0.00\d+ .* not kept"):
        studies.export(tiny, to="pt2", out=out, storage=finished, **POINT)
    assert list(tmp_path.iterdir()) == []
    # one that was there before stays as it was
    out.write_bytes(b"of yesterday")
    with pytest.raises(ModelError, match="does not agree"):
        studies.export(tiny, to="pt2", out=out, storage=finished, **POINT)
    assert out.read_bytes() == b"of yesterday"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("place", [0, 1])
def test_a_difference_that_is_no_number_is_no_agreement(place: int) -> None:
    images = Split(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))

    def logits(images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1.0, 0.0]).repeat(len(images), 1)

    def broken(images: torch.Tensor) -> torch.Tensor:
        return logits(images) * math.nan

    fine = agree(logits, (logits,), images, ())
    refuse_if_apart(fine)
    found = [fine, fine]
    found[place] = agree(broken, (logits,), images, ())
    with pytest.raises(ModelError, match="does not agree"):
        refuse_if_apart(together(found, ()))


def test_a_network_that_onnx_cannot_hold_is_one_sentence(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(images).flatten(1)

    with pytest.raises(ModelError, match=r"torch cannot write this network as ONNX \(.+\)") as said:
        write_onnx(Odd(), (torch.rand(2, 1, 8, 8),), tmp_path / "a.onnx")
    assert "\n" not in str(said.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["model", "model.pt2", "model.safetensors.json"])
def test_a_file_with_another_ending_is_refused(
    out: str, finished: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=rf"{out}' must end in \.safetensors, as `to` is"):
        studies.export(tiny, to="safetensors", out=tmp_path / out, storage=finished)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_is_one_sentence(finished: Path, tiny: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"'/proc/a.safetensors' cannot be written \("):
        studies.export(tiny, to="safetensors", out="/proc/a.safetensors", storage=finished)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"to": "tflite"}, "`to` must be one of safetensors, pt2, onnx, mlflow, got 'tflite'"),
        ({"to": "pt2", "at_lam": 0.5}, "knows λ = 0, 1 only"),
        ({"to": "pt2", "at_width": 0.5}, "has the widths 1, got 0.5"),
        ({"to": "pt2", "out": "{}"}, "it is a folder; name a file"),
        ({"to": "pt2", "out": "{}/no/such.pt2"}, "there is no folder"),
        ({"to": "safetensors", "at_width": 1.0}, "name a `lam` too, or leave the width out"),
        ({"to": "pt2", "alias": "best"}, "goes with `to: mlflow` alone"),
        ({"to": "mlflow", "out": "{}/a"}, "`to: mlflow` writes none"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    asked: dict[str, Any], said: str, finished: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    if "out" in asked:
        asked = {**asked, "out": asked["out"].format(tmp_path)}
    with pytest.raises(ModelError) as refused:
        studies.export(tiny, storage=finished, **asked)
    assert said in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_without_the_packages_of_onnx_the_sentence_says_what_to_install(
    finished: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModelError, match=r"pip install 'oat-studies\[onnx\]'"):
        studies.export(tiny, to="onnx", out=tmp_path / "a.onnx", storage=finished)
