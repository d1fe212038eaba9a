"""What SECURITY.md says of files: nothing that is read is executed, no name leaves its folder."""

import ast
import hashlib
import io
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import studies
from oat.checkpoint import MAGIC
from studies.errors import StudyError
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.report.origin import gather
from studies.report.page import render_page
from studies.results.mlflow_index import INDEX
from studies.storage.local import LocalFolder
from studies.storage.remote import RemoteFolder
from studies.storage.sealed import write_sealed
from studies.study_file.loading import load_study
from studies.trial.run import run_trial

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("oat", "baselines", "studies", "benchmarks")


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def _npz(evil: Evil) -> bytes:
    """An archive of arrays, one of them of pickled objects under a point's own name."""
    buffer = io.BytesIO()
    np.savez(buffer, evil=np.array([evil], dtype=object))
    return buffer.getvalue()


def _array(evil: Evil) -> bytes:
    """A lone array of pickled objects where an archive should be."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([evil], dtype=object))
    return buffer.getvalue()


def _number(_: Evil) -> bytes:
    """A sound array where an archive should be."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(2))
    return buffer.getvalue()


def _checkpoint(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    torch.save({"training_id": "0", "history": [], "evil": evil}, buffer)
    payload = buffer.getvalue()
    return MAGIC + hashlib.sha256(payload).digest() + payload


def _saved(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": evil}, buffer)
    return buffer.getvalue()


ATTACKS = {
    "correct.npz": [_npz, _array, _number, pickle.dumps],
    "checkpoint": [_checkpoint, _saved, pickle.dumps],
    "model.safetensors": [_saved, pickle.dumps],
    "result.json": [pickle.dumps],
    "trained.json": [pickle.dumps],
    "points.jsonl": [pickle.dumps],
    "checks.jsonl": [pickle.dumps],
    "epochs.jsonl": [pickle.dumps],
    "provenance.json": [pickle.dumps],
}


def _plan(tiny: dict[str, Any], storage: Path) -> Plan:
    return make_plan(load_study(tiny), LocalFolder(storage / "tiny"))


@pytest.mark.parametrize(
    ("name", "make"),
    [(name, make) for name, makers in ATTACKS.items() for make in makers],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)
def test_a_pickle_in_any_file_of_a_trial_does_not_run(
    name: str, make: Any, tiny: dict[str, Any], storage: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    trial = _plan(tiny, storage).trials[0]
    place = storage / "tiny" / "trials" / trial.run_key
    (place / name).write_bytes(make(Evil(ran)))
    if name in {"checkpoint", "trained.json"}:
        (place / "result.json").unlink()
        (place / ("trained.json" if name == "checkpoint" else "checkpoint")).unlink(missing_ok=True)
    plan = _plan(tiny, storage)
    studies.points(tiny, storage=storage)
    studies.status(tiny, storage=storage)
    gather(plan, LocalFolder(storage / "tiny"))
    run_trial(plan.trials[0].job, LocalFolder(place), lambda _: None)
    assert not ran.exists()
    assert _plan(tiny, storage).trials[0].state == "done"


def test_weights_that_hold_a_pickle_do_not_run_even_under_a_digest_of_their_own(
    tiny: dict[str, Any], storage: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    trial = _plan(tiny, storage).trials[0]
    folder = LocalFolder(storage / "tiny" / "trials" / trial.run_key)
    data = _saved(Evil(ran))
    record = json.loads(folder.read("result.json"))
    del record["check"]
    record["trained"]["weights"]["last"] |= {
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
    }
    folder.write("model.safetensors", data)
    write_sealed(folder, "result.json", record)
    folder.remove("points.jsonl")  # so that the weights are read
    outcome = run_trial(trial.job, folder, lambda _: None)
    assert outcome["status"] == "failed"
    assert "SafetensorError" in outcome["error"]
    assert not ran.exists()


NAMES = [
    "../x",
    "..",
    ".",
    "/tmp/x",
    "a/b",
    "a\\b",
    ".hidden",
    "-x",
    "x\n",
    "a b",
    "ä",
    "s3://b",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_could_leave_the_storage_folder_is_refused(
    name: str, tiny: dict[str, Any]
) -> None:
    with pytest.raises(StudyError, match="`name`"):
        load_study({**tiny, "name": name})


def test_keys_of_folders_and_points_are_hex_digits(tiny: dict[str, Any], tmp_path: Path) -> None:
    for trial in _plan(tiny, tmp_path).trials:
        assert re.fullmatch("[0-9a-f]{12}", trial.run_key)
        for point in trial.job["points"]:
            assert re.fullmatch("[0-9a-f]{12}", point["point_key"])


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_removing_a_link_leaves_what_it_points_to(kind: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    store = tmp_path / "store"
    store.mkdir()
    folder = LocalFolder(store) if kind == "local" else RemoteFolder(store.as_uri())
    (store / "file").symlink_to(outside / "precious")
    folder.write("file", b"new")
    folder.remove("file")
    (store / "folder").symlink_to(outside)
    folder.remove("folder")
    assert (outside / "precious").read_bytes() == b"x"
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("uri", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd"])
def test_an_address_of_another_kind_becomes_no_link(
    uri: str, tiny: dict[str, Any], storage: Path
) -> None:
    folder = LocalFolder(storage / "tiny")
    plan = _plan(tiny, storage)
    keys = [trial.run_key for trial in plan.trials]
    index = {"experiment": "1", "study": "2", "trials": dict.fromkeys(keys, "3"), "runs": {}}
    folder.write(INDEX, json.dumps({**index, "uri": uri}).encode())
    origin = gather(plan, folder)
    assert origin.links.trials
    text = render_page(studies.compare(studies.points(tiny, storage=storage)), origin)
    links = re.findall(r'href="([^"]*)"', text.partition("<script>")[0])
    assert links
    assert all(link.startswith("http://") or link == "data:," for link in links)


def _calls() -> Iterator[tuple[str, str, ast.Call]]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield path.name, ast.unparse(node.func), node


def test_nothing_of_ours_unpickles_evaluates_or_loads_yaml_that_can_run() -> None:
    loads = 0
    for place, called, node in _calls():
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert called not in {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load"}, place
        assert "allow_pickle" not in given, place
        assert given.get("shell", "False") == "False", place
        if called == "torch.load":
            loads += 1
            assert given["weights_only"] == "True", place
    assert loads == 2  # of checkpoints: our own, and those from outside
