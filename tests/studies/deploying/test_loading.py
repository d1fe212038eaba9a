"""Trained models from storage and from files: they are the networks that were judged."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import studies
from oat.data import DataConfig, load, unit
from studies.errors import ModelError
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.trial.weights import KEY, said_by
from tests.studies.conftest import TrainAll


def _right(network: torch.nn.Module, study: Any, count: int) -> np.ndarray[Any, Any]:
    test = load(DataConfig(**study.dump()["data"])).test.head(count)
    with torch.no_grad():
        found: np.ndarray[Any, Any] = (network(unit(test.images)).argmax(1) == test.labels).numpy()
    return found


def test_every_model_of_a_study_has_the_accuracy_that_its_points_tell(
    finished: Path, tiny: dict[str, Any]
) -> None:
    study = load_study(tiny)
    points = studies.points(study, storage=finished)
    assert len(points) >= 5
    for row in points.to_dict("records"):
        once = row["method"] == "oat"
        values = {} if once else {k: row[k] for k in ("lam", "beta") if not np.isnan(row[k])}
        model = studies.load_model(study, row["method"], storage=finished, **values)
        network = model.at(row["lam"] if once else None)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        right = _right(network, study, row["images"])
        assert right.mean() == pytest.approx(row["sa"], abs=0.5 / row["images"])


def test_what_is_asked_for_in_other_words_is_the_same_model(
    finished: Path, tiny: dict[str, Any]
) -> None:
    by_label = studies.load_model(tiny, "pgd_at λ=1", storage=finished)
    by_value = studies.load_model(tiny, "pgd_at", lam=1, storage=finished)
    assert by_label.about == by_value.about
    assert studies.load_model(tiny, storage=finished).label == "oat lambda_choices=(0.0,1.0)"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"method": "pgd_at"}, "name one of 'pgd_at λ=0', 'pgd_at λ=1'"),
        ({"method": "pgd_at", "lam": 0.5}, "no model 'pgd_at' λ=0.5; it has oat"),
        ({"method": "nobody"}, "no model 'nobody'; it has oat"),
        ({"seed": 7}, "has the seeds 0, got 7"),
        ({"checkpoint": "best"}, "has the checkpoints last"),
        ({"device": "nowhere"}, "`device` 'nowhere' cannot be used"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(
    asked: dict[str, Any], said: str, finished: Path, tiny: dict[str, Any]
) -> None:
    with pytest.raises(ModelError) as refused:
        studies.load_model(tiny, storage=finished, **asked)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_that_is_not_trained_or_is_damaged_is_one_sentence(
    storage: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=r"is not trained \(missing\); `oat run` trains it"):
        studies.load_model(tiny, storage=tmp_path / "nowhere")
    (weights,) = _trial(storage, tiny).glob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\1\2\3")
    with pytest.raises(ModelError, match=r"is damaged: .* is not what was written"):
        studies.load_model(tiny, storage=storage)


def _trial(storage: Path, tiny: dict[str, Any]) -> Path:
    """Return the folder of the study's OAT."""
    plan = studies.plan(tiny, storage=storage)
    (trial,) = (one for one in plan.trials if one.label.startswith("oat"))
    return storage / tiny["name"] / "trials" / trial.run_key


@pytest.mark.parametrize(
    ("lam", "width", "said"),
    [
        (None, 1.0, "needs a `lam`: it was trained at 0, 1"),
        (0.5, 1.0, "knows λ = 0, 1 only"),
        (1.5, 1.0, r"must be in \[0, 1\], got 1.5"),
        (0.0, 0.5, "has the widths 1, got 0.5"),
    ],
)
def test_an_operating_point_that_the_model_does_not_have_is_refused(
    lam: float | None, width: float, said: str, finished: Path, tiny: dict[str, Any]
) -> None:
    model = studies.load_model(tiny, storage=finished)
    with pytest.raises(ModelError, match=said):
        model.at(lam, width)


def test_a_dedicated_model_has_no_knob(finished: Path, tiny: dict[str, Any]) -> None:
    model = studies.load_model(tiny, "trades", storage=finished)
    assert model.lams == ()
    with pytest.raises(ModelError, match="has no λ to set"):
        model.at(0.5)
    with pytest.raises(ModelError, match="has no knob"):
        model.knob()


def test_a_weights_file_alone_is_the_same_model(
    storage: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    model = studies.load_model(tiny, storage=storage)
    file = shutil.copy(_trial(storage, tiny) / "model.safetensors", tmp_path / "w.safetensors")
    shutil.rmtree(storage)
    alone = studies.load_model(file)
    assert repr(alone) == repr(model)
    of_the_rule = {"checkpoint": "last", "epoch": 1}
    assert {**alone.about, **of_the_rule} == model.about
    assert len(alone.classes) == 10
    images = torch.rand(3, *alone.image_shape)
    torch.testing.assert_close(alone.at(1.0)(images), model.at(1.0)(images), rtol=0, atol=0)


def test_weights_of_an_older_version_say_nothing_and_load_by_their_study(
    storage: Path, tiny: dict[str, Any]
) -> None:
    expected = studies.load_model(tiny, storage=storage)
    folder = _trial(storage, tiny)
    _without_metadata(folder)
    model = studies.load_model(tiny, storage=storage)
    assert model.about == expected.about
    with pytest.raises(ModelError, match="does not say which network it is of; name the study"):
        studies.load_model(folder / "model.safetensors")


def _without_metadata(folder: Path) -> None:
    """Write a trial as version 0.1 did, whose weights said nothing."""
    from safetensors.torch import load as load_tensors
    from safetensors.torch import save

    from studies.storage.sealed import unseal, write_sealed
    from studies.trial.weights import hashlib

    path = folder / "model.safetensors"
    data = save(load_tensors(path.read_bytes()))
    assert said_by(data) is None
    path.write_bytes(data)
    result = unseal((folder / "result.json").read_bytes())
    known = result["trained"]["weights"]["last"]
    known |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write_sealed(LocalFolder(folder), "result.json", {k: result[k] for k in result if k != "check"})


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"", "it is no safetensors file"),
        (b"\x10\0\0\0\0\0\0\0not json at all!", "it is no safetensors file"),
        (b"\xff" * 40, "it is no safetensors file"),
        (json.dumps([1]).encode(), "it is no safetensors file"),
    ],
)
def test_a_file_that_is_none_of_ours_is_one_sentence(
    written: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(written)
    with pytest.raises(ModelError, match=said):
        studies.load_model(path)


def test_a_file_of_another_version_is_one_sentence(storage: Path, tiny: dict[str, Any]) -> None:
    from safetensors.torch import load as load_tensors
    from safetensors.torch import save

    path = _trial(storage, tiny) / "model.safetensors"
    said = said_by(path.read_bytes())
    assert said is not None
    faulty: dict[str, Any] = json.loads(json.dumps(said))
    faulty["config"]["model"]["name"] = "resnet14"
    later: dict[str, Any] = json.loads(json.dumps(said))
    later["config"]["results_version"] += 1
    cases: list[tuple[object, str]] = [
        (faulty, r"does not fit the network that it names \(.* Missing key\(s\) in state_dict: "),
        ({**said, "config": {"method": {"name": "oat"}}}, "does not say which network it is of"),
        ([], "does not say which network it is of"),
        (later, "was written by a later version of oat-studies"),
    ]
    tensors = load_tensors(path.read_bytes())
    for some, words in cases:
        path.write_bytes(save(tensors, {KEY: json.dumps(some)}))
        with pytest.raises(ModelError, match=words):
            studies.load_model(path)
    path.write_bytes(save(tensors, {KEY: json.dumps(said)})[:-9])
    with pytest.raises(ModelError, match="is cut short or damaged"):
        studies.load_model(path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lam": "0.3"}, "`lam` must be a number, got '0.3'"),
        ({"lam": True}, "`lam` must be a number, got True"),
        ({"lam": 0, "width": "a"}, "`width` must be a number, got 'a'"),
    ],
)
def test_what_is_no_number_is_one_sentence(
    given: dict[str, Any], said: str, storage: Path, tiny: dict[str, Any]
) -> None:
    model = studies.load_model(tiny, storage=storage)
    with pytest.raises(ModelError, match=said):
        model.at(**given)
    with pytest.raises(ModelError, match="`lam` must be a number, got '1'"):
        studies.load_model(tiny, "pgd_at", lam="1", storage=storage)  # type: ignore[arg-type]


def test_lam_of_a_point_is_told_from_that_of_a_retrained_model(
    storage: Path, tiny: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=r"has no model .* λ of an operating point is `at_lam`"):
        studies.load_model(tiny, lam=0.3, storage=storage)


def test_a_file_is_one_model_and_takes_no_choice(storage: Path, tiny: dict[str, Any]) -> None:
    path = _trial(storage, tiny) / "model.safetensors"
    with pytest.raises(ModelError, match="is one model by itself; leave `method`"):
        studies.load_model(path, "oat")
    with pytest.raises(ModelError, match=r"nowhere.safetensors' cannot be read \(No such file"):
        studies.load_model(path.with_name("nowhere.safetensors"))


BLOCKS = (
    "{name: oats, lambda_choices: [0, 1], width_mults: [0.5, 1], encoding: continuous}",
    "{name: pgd_at, lam: 0}",
    "{name: pgd_at, lam: 1, start: {from: pgd_at λ=0, epochs: 1}}",
    "{name: mix, of: [pgd_at λ=0, 'pgd_at start=pgd_at:λ=0 epochs=1 λ=1'], alphas: [0, 0.5]}",
    "{name: interpolate, of: [pgd_at λ=0, 'pgd_at start=pgd_at:λ=0 epochs=1 λ=1'], alphas: [0.5]}",
)


def test_oats_and_pairs_load_and_have_the_accuracy_that_their_points_tell(
    tiny_file: Path, train_all: TrainAll, tmp_path: Path
) -> None:
    study = load_study(tiny_file, [f"methods=[{', '.join(BLOCKS)}]"])
    train_all(study, tmp_path)
    points = studies.points(study, storage=tmp_path)
    for name in ("oats", "mix", "interpolate"):
        model = studies.load_model(study, name, storage=tmp_path)
        assert model.any_lam
        rows = points[points["method"] == name].to_dict("records")
        assert rows
        for row in rows:
            right = _right(model.at(row["lam"], row["width_mult"]), study, row["images"])
            assert right.mean() == pytest.approx(row["sa"], abs=0.5 / row["images"])
    with pytest.raises(ModelError, match="has other weights at each α"):
        studies.load_model(study, "interpolate", storage=tmp_path).knob()
    mix = studies.load_model(study, "mix", storage=tmp_path)
    assert mix.lams == (0, 0.5)
    assert "any α in [0, 1], judged at 0, 0.5;" in repr(mix)
    with pytest.raises(ModelError, match=r"needs a `lam`: it was judged at 0, 0\.5\."):
        mix.at()
    for to in ("safetensors", "pt2"):
        with pytest.raises(ModelError, match="has other weights at each α"):
            studies.export(study, "interpolate", to=to, out=tmp_path / f"a.{to}", storage=tmp_path)
    (key,) = points.loc[points["method"] == "interpolate", "run_key"].unique()
    (file,) = tmp_path.glob(f"*/trials/{key}/model.safetensors")
    with pytest.raises(ModelError, match="is of networks between two others"):
        studies.load_model(file)
    oats = studies.load_model(study, storage=tmp_path)
    images, lams = torch.rand(2, *oats.image_shape), torch.tensor([0.3, 1.0])
    for width in (0.5, 1.0):
        found = oats.knob(width)(images, lams)
        torch.testing.assert_close(found[:1], oats.at(0.3, width)(images[:1]), rtol=1e-4, atol=1e-5)
