import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from studies.driver import nodes as preconditions
from studies.driver.checks import Check, check_evaluation, check_here, demand, tell
from studies.driver.node_checks import compare_nodes, judge_node
from studies.driver.nodes import check_cluster
from studies.driver.same_data import KnownData
from studies.errors import StorageError, StudyError, TrackingError
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from tests.oat.data.files import folder_of, save
from tests.ray_paths import needs_plain_path

NOTHING = KnownData("", {})
OAT = Path(sys.executable).with_name("oat")


def _failed(checks: list[Check]) -> dict[str, str]:
    return {check.name: str(check.error) for check in checks if check.error is not None}


def test_what_holds_is_no_reason_to_stop() -> None:
    demand([Check("a", "fine"), Check("b", "odd", warning=True)])


def test_all_that_fails_is_said_at_once_in_the_class_of_the_first() -> None:
    checks = [
        Check("a", "fine"),
        Check("b", "", StorageError("Storage is full.")),
        Check("c", "", TrackingError("MLflow is gone.")),
        Check("d", "", TrackingError("MLflow is gone.")),
    ]
    with pytest.raises(StorageError) as caught:
        demand(checks)
    assert str(caught.value) == "Storage is full.\nMLflow is gone."
    assert [check.state for check in checks] == ["ok", "failed", "failed", "failed"]


def test_here_storage_and_mlflow_are_asked_and_both_failures_are_told(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    study = load_study(tiny)
    file = tmp_path / "file"
    file.write_text("")
    fine = check_here(study, LocalFolder(tmp_path / "s"), "sqlite:///runs.db")
    assert [check.state for check in fine] == ["ok", "ok"]
    bad = _failed(check_here(study, LocalFolder(file), "http://127.0.0.1:9"))
    assert "cannot be written" in bad["storage"]
    assert "does not answer" in bad["MLflow"]


def test_an_address_with_a_password_is_shown_without(tiny: dict[str, Any], tmp_path: Path) -> None:
    uri = "postgresql+psycopg2://me:secret@host/runs"
    (_, mlflow) = check_here(load_study(tiny), LocalFolder(tmp_path), uri)
    assert "secret" not in mlflow.said


def test_data_that_are_missing_are_a_sentence(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["data"] = {"name": "cifar10", "root": str(tmp_path)}
    (found,) = check_evaluation(load_study(tiny), NOTHING)
    assert isinstance(found.error, StudyError)
    assert str(tmp_path) in found.said


def test_so_few_images_that_a_batch_norm_sees_one_are_a_sentence(
    tiny: dict[str, Any], tmp_path: Path, told: dict[str, Any]
) -> None:
    tiny["data"] = {"name": "digits", "train_images": 30}
    tiny["train"] |= {"batch_size": 64}
    tiny["methods"][0] |= {"zero_share": 0.96}
    (found,) = check_evaluation(load_study(tiny), NOTHING)
    assert isinstance(found.error, StudyError)
    assert "A batch of all 30 training images leaves oat 1 row with λ ≠ 0" in found.said
    told["training_images"] = 30
    (said,) = _failed(_judged(tiny, tmp_path, told)).values()
    assert "A batch of all 30 training images leaves oat 1 row with λ ≠ 0" in said


def test_the_images_of_each_class_are_told_and_remarks_are_warnings(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    (found,) = check_evaluation(load_study(tiny), NOTHING)
    assert found.state == "ok"
    assert "; by class (training/held-out/test) 0 " in found.said
    root = folder_of(tmp_path)
    save(root / "train" / "__MACOSX" / "0.png")
    shutil.copy(root / "train/cat/0.png", root / "test/cat/again.png")
    tiny["data"] = {"name": "imagefolder", "root": str(root)}
    few = check_evaluation(load_study(tiny), NOTHING)[-1]
    study = load_study(tiny)
    here = preconditions._look_around(study.data, str(tmp_path), "marker", {})
    (_, *told, _) = compare_nodes(study, [{"name": "node 10.0.0.7", **here}])
    assert few in told
    assert few.warning
    assert "Held out of training are 1 images, and a comparison needs 100" in few.said
    tiny["evaluate"] |= {"held_out_images": 0}  # so that no λ is chosen
    found, *warnings = check_evaluation(load_study(tiny), NOTHING)
    assert [check.state for check in (found, *warnings)] == ["ok", "warning", "warning"]
    assert found.said.startswith("imagefolder, 9 training, 1 held-out, 5 test images; by class")
    console = Console(file=io.StringIO(), width=20)
    tell([Check("storage", "fine"), found, *warnings], console)
    assert console.file.getvalue() == (  # type: ignore[attr-defined]
        f"Data: {found.said}.\nLeft out below '{root}/train': 1 hidden or system.\n"
        "Test images that are also among the training images, pixel by pixel: 1 of 5. They "
        "flatter every accuracy; take them out of one of the two.\n"
    )


def test_the_images_of_a_cluster_are_told_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    save(folder_of(tmp_path / "data") / "test" / "loose.png")
    tiny["data"] = {"name": "imagefolder", "root": str(tmp_path / "data")}
    tiny["evaluate"] |= {"held_out_images": 0}
    study = load_study(tiny)
    LocalFolder(tmp_path / "shared").write("marker", b"")
    sight = preconditions._look_around(study.data, str(tmp_path / "shared"), "marker", {})
    told = [{"name": f"node 10.0.0.{i}", **sight} for i in (7, 8)]
    checks = [check for check in compare_nodes(study, told) if check.name == "data"]
    assert [check.state for check in checks] == ["ok", "warning"]
    assert "by class" in checks[0].said
    assert "1 in no class folder" in checks[1].said


def test_every_request_of_the_study_must_fit_a_node(tiny: dict[str, Any]) -> None:
    tiny["methods"][0]["resources"] = {"cpu": 1, "gpu": 1}
    study = load_study(tiny)
    both = [{"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}]
    assert check_cluster(study, both).said == "1 CPU and 0 GPU, 1 CPU and 1 GPU"
    found = check_cluster(study, both[:1])
    assert "1 CPU and 1 GPU" in str(found.error)


@pytest.fixture
def told(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """What this machine tells of itself."""
    study = load_study(tiny)
    LocalFolder(tmp_path / "shared").write("marker", b"")
    found = preconditions._look_around(study.data, str(tmp_path / "shared"), "marker", {})
    return {"name": "node 10.0.0.7", **found}


def _judged(
    tiny: dict[str, Any],
    tmp_path: Path,
    told: dict[str, Any],
    asked_ago: float = 0,
    known: KnownData = NOTHING,
) -> list[Check]:
    if told["python"] == sys.executable:  # these tests may run on a path with a blank
        told = {**told, "python": "/usr/bin/python3"}
    began = time.time() - asked_ago
    return judge_node(load_study(tiny), LocalFolder(tmp_path / "shared"), told, began, known)


def test_a_node_like_this_one_is_fine(
    tiny: dict[str, Any], tmp_path: Path, told: dict[str, Any]
) -> None:
    checks = _judged(tiny, tmp_path, told)
    assert [check.state for check in checks] == ["ok"] * 3
    assert told["fingerprint"] in checks[1].said
    assert (tmp_path / "shared" / "marker").exists()
    assert os.listdir(tmp_path / "shared") == ["marker"]


def test_a_node_with_another_torch_is_refused(
    tiny: dict[str, Any], tmp_path: Path, told: dict[str, Any]
) -> None:
    told["versions"] = {**told["versions"], "torch": "1.0"}
    found = _failed(_judged(tiny, tmp_path, told))
    assert "torch 1.0 instead of" in found["node 10.0.0.7: versions"]
    assert "same environment" in found["node 10.0.0.7: versions"]


def test_a_node_whose_python_no_shell_finds_is_refused(
    tiny: dict[str, Any], tmp_path: Path, told: dict[str, Any]
) -> None:
    told["python"] = "/home/me/my study/.venv/bin/python"
    found = _failed(_judged(tiny, tmp_path, told))["node 10.0.0.7: versions"]
    assert "has its Python at '/home/me/my study/.venv/bin/python'" in found
    assert "so that no worker starts there" in found


def test_a_folder_of_the_same_name_on_another_disk_is_not_the_storage(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    study = load_study(tiny)
    found = preconditions._look_around(study.data, str(tmp_path / "own"), "marker", {})
    said = _failed(_judged(tiny, tmp_path, {"name": "node 10.0.0.7", **found}))
    assert "folder of its own" in said["node 10.0.0.7: storage"]
    assert "s3://" in said["node 10.0.0.7: storage"]


def test_storage_that_a_node_cannot_write_is_a_sentence(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    found = preconditions._look_around(load_study(tiny).data, str(tmp_path / "file"), "marker", {})
    said = _failed(_judged(tiny, tmp_path, {"name": "node 10.0.0.7", **found}))
    assert str(tmp_path / "file") in said["node 10.0.0.7: storage"]


def test_a_node_with_other_data_than_the_study_was_trained_on_is_a_sentence(
    tiny: dict[str, Any], tmp_path: Path, told: dict[str, Any]
) -> None:
    known = KnownData("./data", {"oat seed 0 (abc)": told["fingerprint"]})
    assert _failed(_judged(tiny, tmp_path, told, known=known)) == {}
    known = KnownData("./data", {"oat seed 0 (abc)": "0" * 12})
    said = _failed(_judged(tiny, tmp_path, told, known=known))["node 10.0.0.7: data"]
    for word in ("oat seed 0 (abc)", "0" * 12, told["fingerprint"], "put the old data back"):
        assert word in said


def test_a_node_without_the_data_is_a_sentence(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["data"] = {"name": "svhn", "root": str(tmp_path)}
    LocalFolder(tmp_path / "shared").write("marker", b"")
    data = load_study(tiny).data
    found = preconditions._look_around(data, str(tmp_path / "shared"), "marker", {})
    said = _failed(_judged(tiny, tmp_path, {"name": "node 10.0.0.7", **found}))
    assert list(said) == ["node 10.0.0.7: data"]
    assert str(tmp_path) in said["node 10.0.0.7: data"]


@pytest.mark.parametrize(("off", "state"), [(3600, "warning"), (-3600, "warning"), (10, None)])
def test_a_clock_that_is_an_hour_off_is_a_warning(
    off: int, state: str | None, tiny: dict[str, Any], tmp_path: Path, told: dict[str, Any]
) -> None:
    told["clock"] = time.time() + off
    found = {check.name: check for check in _judged(tiny, tmp_path, told)}
    clock = found.get("node 10.0.0.7: clock")
    assert (clock.state if clock else None) == state
    if clock:
        assert f"{off:+d} s off" in clock.said


def test_a_node_that_fetched_data_for_an_hour_has_no_wrong_clock(
    tiny: dict[str, Any], tmp_path: Path, told: dict[str, Any]
) -> None:
    told["clock"] = time.time() - 3500  # it looked before it fetched
    checks = _judged(tiny, tmp_path, told, asked_ago=3600)
    assert [check.state for check in checks] == ["ok"] * 3


def test_nodes_with_other_data_are_refused(tiny: dict[str, Any], told: dict[str, Any]) -> None:
    study = load_study(tiny)
    other = {**told, "name": "node 10.0.0.8", "fingerprint": "0" * 12}
    fine = compare_nodes(study, [told, {**told, "name": "node 10.0.0.8"}])
    assert _failed(fine) == {}
    said = _failed(compare_nodes(study, [told, other]))["data"]
    for word in ("node 10.0.0.7", "node 10.0.0.8", "0" * 12, told["fingerprint"]):
        assert word in said


def test_a_cluster_that_asks_for_no_token_is_a_warning(
    tiny: dict[str, Any], told: dict[str, Any]
) -> None:
    study = load_study(tiny)
    states = {
        token: compare_nodes(study, [{**told, "token": token}])[-1].state for token in (True, False)
    }
    assert states == {True: "ok", False: "warning"}


CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for _ in range(2):
    cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A cluster whose head holds no trial, and two nodes; what a client's environment needs."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text("b" * 32)
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=os.environ | env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        yield {**env, "ADDRESS": process.stdout.readline().strip()}
        process.stdin.write("\n")
        process.stdin.flush()


def _oat(cluster: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(OAT), *words, "--address", cluster["ADDRESS"]]
    return subprocess.run(
        command, env=os.environ | cluster | {"COLUMNS": "200"},
        capture_output=True, text=True, check=False, timeout=1000,
    )  # fmt: skip


@needs_plain_path
@pytest.mark.ray
@pytest.mark.slow
def test_preflight_asks_every_node_that_may_run_a_trial(
    cluster: dict[str, str], tiny_file: Path, tmp_path: Path
) -> None:
    ended = _oat(cluster, "preflight", str(tiny_file), "--storage", str(tmp_path / "s"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for name in ("study", "storage", "MLflow", "requests", "token"):
        assert name in ended.stdout
    assert ended.stdout.count(": versions") == 2
    assert ended.stdout.count(": data") == 2
    assert "by class" in ended.stdout
    assert ended.stdout.count(": storage") == 2
    assert "failed" not in ended.stdout
    left = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert [path for path in left if "mlflow" not in path.name] == []


@needs_plain_path
@pytest.mark.ray
@pytest.mark.slow
def test_a_study_that_does_not_fit_the_cluster_is_refused_before_anything_starts(
    cluster: dict[str, str], tiny_file: Path, tmp_path: Path
) -> None:
    more = ("--storage", str(tmp_path / "s"), "--set", "resources.cpu=2")
    for command in ("preflight", "run"):
        ended = _oat(cluster, command, str(tiny_file), *more)
        assert ended.returncode == 2
        assert "2 CPU and 0 GPU" in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
    assert not (tmp_path / "s" / "tiny" / "trials").exists()
