"""The ready-made ways in are valid, have Ray's token on, hold no credential, call what exists."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import typer.main
import yaml
from ray._private import ray_constants, services
from ray.autoscaler._private.util import prepare_config
from ray.scripts.scripts import start as ray_start
from ray.scripts.symmetric_run import symmetric_run
from sqlalchemy import create_engine

from studies.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
PLACES = ROOT / "docs" / "clusters"
RAY_FILES = [ROOT / "ray_cluster.yaml", PLACES / "on-premises.yaml", PLACES / "gcp.yaml"]
RAYJOB, SLURM = PLACES / "kuberay-rayjob.yaml", PLACES / "slurm.sh"
CONTAINERFILE, COMPOSE = PLACES / "Containerfile", PLACES / "compose.yaml"
EXAMPLES = [*RAY_FILES, RAYJOB, SLURM, CONTAINERFILE, COMPOSE]
PAGES = [PLACES / "README.md", ROOT / "SECURITY.md", ROOT / "README.md"]

# the fields of KubeRay 1.6's custom resources, as its API reference lists them
RAYJOB_FIELDS = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint",
    "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy",
    "metadata", "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode",
    "submitterConfig", "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished",
}  # fmt: skip
CLUSTER_FIELDS = {
    "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions",
    "headGroupSpec", "headServiceAnnotations", "managedBy", "rayVersion", "suspend",
    "workerGroupSpecs",
}  # fmt: skip
HEAD_FIELDS = {
    "enableIngress", "headService", "rayStartParams", "resources", "serviceType", "template",
}  # fmt: skip
WORKER_FIELDS = {
    "groupName", "idleTimeoutSeconds", "maxReplicas", "minReplicas", "numOfHosts",
    "rayStartParams", "replicas", "resources", "scaleStrategy", "suspend", "template",
}  # fmt: skip


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _locked(package: str) -> str:
    """Return the version of a package in the lock."""
    found = re.search(rf"^{package}==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


# ---- Ray's own cluster files


@pytest.mark.parametrize("path", RAY_FILES, ids=_name)
def test_a_cluster_file_is_valid_against_rays_own_schema(path: Path) -> None:
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(_yaml(path), json.loads(schema.read_text()))


@pytest.mark.parametrize("path", RAY_FILES, ids=_name)
def test_ray_takes_a_cluster_file_and_adds_no_command_of_its_own(path: Path) -> None:
    ours, rays = _yaml(path), prepare_config(_yaml(path))
    assert rays["head_node_type"] in rays["available_node_types"]
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert rays[kind] == ours[kind]
    common = ours["setup_commands"]
    assert rays["worker_setup_commands"] == common
    assert rays["head_setup_commands"] == common + ours.get("head_setup_commands", [])


@pytest.mark.parametrize("path", RAY_FILES, ids=_name)
def test_a_cluster_starts_with_rays_token_on_every_node(path: Path) -> None:
    config = _yaml(path)
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("export RAY_AUTH_MODE=token" in command for command in config["setup_commands"])


@pytest.mark.parametrize("path", RAY_FILES, ids=_name)
def test_ray_knows_the_options_that_a_cluster_starts_it_with(path: Path) -> None:
    config = _yaml(path)
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        _, found, options = command.partition("ray start ")
        if found:
            ray_start.make_context("start", shlex.split(options))


@pytest.mark.parametrize("path", RAY_FILES, ids=_name)
def test_nodes_get_the_source_with_its_history_and_none_of_its_results(path: Path) -> None:
    config = _yaml(path)
    assert "." in config["file_mounts"].values()
    # without .git no result could name the revision it came from
    assert config["rsync_exclude"] == [".venv", "outputs", "/data"]
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {f"{name}/" for name in config["rsync_exclude"]} <= set(ignored)
    # rsync leaves out a name at every depth, unless a slash before it ties it to the top
    for package in ("oat", "baselines", "studies"):
        parts = {part for file in (ROOT / package).rglob("*.py") for part in file.parts}
        left_out = {name for name in config["rsync_exclude"] if not name.startswith("/")}
        assert not (parts - set(ROOT.parts)) & left_out
        assert f"/{package}" not in config["rsync_exclude"]


@pytest.mark.parametrize("path", RAY_FILES, ids=_name)
def test_a_fresh_cluster_has_a_node_that_a_trial_fits(path: Path) -> None:
    """`oat run` refuses a request that none of the nodes there can hold."""
    config = prepare_config(_yaml(path))
    assert any(kind["min_workers"] >= 1 for kind in config["available_node_types"].values())


@pytest.mark.parametrize("path", [ROOT / "ray_cluster.yaml", PLACES / "gcp.yaml"], ids=_name)
def test_the_head_is_on_demand_and_runs_no_trial(path: Path) -> None:
    head = _yaml(path)["available_node_types"]["head"]
    worker = _yaml(path)["available_node_types"]["gpu_worker"]
    assert head["resources"]["CPU"] == 0
    assert "spot" not in json.dumps(head).lower()
    assert "spot" in json.dumps(worker).lower()
    # Ray gives a role to the head alone, and trials write to the bucket
    assert {"IamInstanceProfile", "serviceAccounts"} & worker["node_config"].keys()


# ---- every example


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.suffix == ".yaml"], ids=_name)
def test_yaml_is_safe_to_load(path: Path) -> None:
    assert isinstance(_yaml(path), dict)


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p != COMPOSE], ids=_name)
def test_every_example_of_ray_has_the_token_on(path: Path) -> None:
    text = "\n".join(
        line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")
    )
    assert re.search(r"RAY_AUTH_MODE=token|authOptions: \{mode: token", text)
    assert "disabled" not in text


CREDENTIAL = re.compile(
    r"""(?x)
    AKIA[0-9A-Z]{16}                                   # AWS
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY                  # PEM
    | ://[^/\s:@"']+:[^/\s@"']+@                       # a password in an address
    | \b[0-9a-f]{32,}\b                                # a token in hex
    | (?i:password|secret|token|access_key)[A-Z_]*['"]?\s*[:=]\s*['"]?  # a name, and
      (?![\s$"'{(:]|token\b)[\w/+-]{6,}                # a value that is no variable
    """
)


@pytest.mark.parametrize("path", [*EXAMPLES, *PAGES], ids=_name)
def test_no_file_holds_a_credential(path: Path) -> None:
    found = [match[0] for match in CREDENTIAL.finditer(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "AWS_ACCESS_KEY_ID: AKIAABCDEFGHIJKLMNOP",
        "postgresql://mlflow:hunter2@db/mlflow",
        "POSTGRES_PASSWORD: hunter2hunter2",
        "export RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef",
        "auth_token: 'super-secret-token'",
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_what_looks_for_credentials_finds_them(text: str) -> None:
    assert CREDENTIAL.search(text)


def _commands(path: Path) -> list[str]:
    """Return the calls of `oat` in an example: of a shell, a comment, an entry point."""
    found = re.findall(
        r"^\s*(?:#\s*)?oat ((?:.*\\\n)*.*?)(?:\s\|\|.*|\s+#.*)?$", path.read_text(), re.MULTILINE
    )
    if path == RAYJOB:
        found = [_yaml(RAYJOB)["spec"]["entrypoint"].removeprefix("oat ")]
    return [words.replace("\\\n", " ") for words in found]


def test_the_examples_call_oat() -> None:
    assert {path for path in EXAMPLES if _commands(path)} == {RAYJOB, SLURM}


@pytest.mark.parametrize("words", sorted({w for path in EXAMPLES for w in _commands(path)}))
def test_every_call_of_oat_in_an_example_is_one_of_ours(words: str) -> None:
    name, *rest = shlex.split(words)
    group = typer.main.get_command(app)
    group.commands[name].make_context(name, list(rest))  # type: ignore[attr-defined]


def test_the_page_of_the_ways_names_every_file() -> None:
    page = (PLACES / "README.md").read_text()
    for path in PLACES.iterdir():
        if path.name != "README.md":
            assert f"({path.name})" in page


# ---- Kubernetes


def _pods() -> list[dict[str, Any]]:
    cluster = _yaml(RAYJOB)["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_a_rayjob_has_fields_that_kuberay_knows() -> None:
    job = _yaml(RAYJOB)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9-]{1,47}", job["metadata"]["name"])
    assert job["spec"].keys() <= RAYJOB_FIELDS
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster.keys() <= CLUSTER_FIELDS
    assert cluster["headGroupSpec"].keys() <= HEAD_FIELDS
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= WORKER_FIELDS
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert cluster["rayVersion"] == _locked("ray")


def test_a_rayjob_starts_ray_with_options_that_it_has() -> None:
    cluster = _yaml(RAYJOB)["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        options = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        ray_start.make_context("start", options)


def test_a_rayjob_may_start_anew_as_its_results_lie_outside() -> None:
    spec = _yaml(RAYJOB)["spec"]
    assert spec["backoffLimit"] > 0
    words = shlex.split(spec["entrypoint"])
    assert words[:2] == ["oat", "run"]
    assert words[words.index("--storage") + 1].startswith("s3://")
    assert words[words.index("--tracking-uri") + 1].startswith("http://")
    kinds = {kind for pod in _pods() for volume in pod.get("volumes", []) for kind in volume}
    assert kinds <= {"name", "configMap"}


def test_a_rayjob_takes_its_token_and_its_credentials_from_secrets_alone() -> None:
    auth = _yaml(RAYJOB)["spec"]["rayClusterSpec"]["authOptions"]
    assert auth["mode"] == "token"
    assert auth["secretName"]
    for pod in _pods():
        for container in pod["containers"]:
            assert "env" not in container
            assert [list(source) for source in container["envFrom"]]
            assert all(list(source) == ["secretRef"] for source in container["envFrom"])
    head, worker = ([source["secretRef"]["name"] for source in p["containers"][0]["envFrom"]]
                    for p in _pods())  # fmt: skip
    assert set(head) - set(worker) == {"oat-mlflow"}  # the driver alone speaks to MLflow
    page = (PLACES / "README.md").read_text()
    for name in {auth["secretName"], *head, *worker}:
        assert f"kubectl create secret generic {name} " in page


def test_pods_run_as_the_user_of_the_image_and_live_long_enough_to_drain() -> None:
    for pod in _pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert f"--uid {pod['securityContext']['runAsUser']} " in CONTAINERFILE.read_text()
    grace = _pods()[1]["terminationGracePeriodSeconds"]
    assert grace > ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S


# ---- Slurm


def test_the_slurm_script_is_a_script_of_bash() -> None:
    subprocess.run(["bash", "-n", SLURM], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_slurm_script_passes_shellcheck() -> None:
    subprocess.run(["shellcheck", SLURM], check=True)


def test_the_slurm_script_gives_symmetric_run_options_that_it_has() -> None:
    found = re.search(r"ray symmetric-run ((?:.*\\\n)*?)\s*-- ", SLURM.read_text())
    assert found is not None
    words = shlex.split(found[1].replace("\\\n", " "))
    known = {option for parameter in symmetric_run.params for option in parameter.opts}
    assert {"--address", "--min-nodes"} <= known
    rest = iter(words)
    starts = [w for w in rest if not (w in known and next(rest))]
    assert len(starts) == 3
    # the nodes' own start takes what is left; it must be none of what symmetric-run sets itself
    ray_start.make_context("start", [re.sub(r"=.*", "=1", word) for word in starts])
    for word in starts:
        assert word.partition("=")[0] not in {"--head", "--node-ip-address", "--port", "--block"}


STAND_INS = {
    # Slurm's: runs the command on this one node
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
    "hostname": '[[ $1 == --all-ip-addresses ]] && echo "127.0.0.1 192.0.2.1"',
    # Ray's `symmetric-run` is its own; what it starts and stops is written down
    "ray": f"""echo "ray $*" >> "$CALLS"
[[ $1 == symmetric-run ]] && exec {shlex.quote(sys.executable)} -m ray.scripts.symmetric_run "$@"
exit 0""",
    "oat": 'echo "oat $*" >> "$CALLS"\n[[ $1 == run ]] && exit "$CODE"\nexit 0',
}


@pytest.mark.alone  # symmetric-run refuses to start beside any other Ray of this machine
@pytest.mark.parametrize("code", [0, 1])
def test_the_slurm_script_starts_ray_runs_the_study_and_stops_ray(
    code: int, tmp_path: Path
) -> None:
    """`ray symmetric-run` ends with `ray stop`, for every Ray on the machine: here a stand-in."""
    if services.find_gcs_addresses():
        pytest.skip("a Ray runs on this machine, beside which symmetric-run refuses to start")
    system = "/usr/bin:/bin"
    assert shutil.which("ray", path=system) is None
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name, body in STAND_INS.items():
        (binaries / name).write_text(f"#!/bin/bash\n{body}\n")
        (binaries / name).chmod(0o755)
    done = subprocess.run(
        ["bash", SLURM, "my study.yaml"],
        env={
            "PATH": system,
            "HOME": str(tmp_path),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "CALLS": str(tmp_path / "calls"),
            "CODE": str(code),
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_PER_TASK": "16",
            "SLURM_GPUS_ON_NODE": "4",
            "OAT_STORAGE": "/shared/my studies",
            "MLFLOW_TRACKING_URI": "http://tracker:5000",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    token, _, started, run, stopped, status = (tmp_path / "calls").read_text().splitlines()
    assert token == "ray get-auth-token --generate"
    assert started == (
        "ray start --head --node-ip-address=127.0.0.1 --port=6379"
        " --num-cpus=16 --num-gpus=4 --disable-usage-stats"
    )
    ray_start.make_context("start", shlex.split(started)[2:])
    assert run == (
        "oat run my study.yaml --address 127.0.0.1:6379"
        " --storage /shared/my studies --tracking-uri http://tracker:5000"
    )
    assert stopped == "ray stop"
    assert status == "oat status my study.yaml --storage /shared/my studies"


@pytest.mark.parametrize("missing", ["study", "MLFLOW_TRACKING_URI"])
def test_the_slurm_script_says_what_it_lacks(missing: str, tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path)}
    if missing == "study":
        env["MLFLOW_TRACKING_URI"] = "http://tracker:5000"
    words = ["bash", str(SLURM), *([] if missing == "study" else ["quickstart"])]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert ("usage: sbatch" if missing == "study" else missing) in done.stderr


# ---- the image


def _steps() -> list[list[str]]:
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [line.split(maxsplit=1) for line in lines if line.strip()]


def test_the_image_installs_the_lock_and_every_package() -> None:
    steps = _steps()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (base,) = [rest for kind, rest in steps if kind == "FROM"]
    version = re.fullmatch(r"python:3\.(\d+)-slim", base)
    oldest = re.fullmatch(r">=3\.(\d+)", project["project"]["requires-python"])
    assert version is not None
    assert oldest is not None
    assert int(version[1]) >= int(oldest[1])
    assert any("--require-hashes -r requirements.lock" in rest for _, rest in steps)
    copied = {name for kind, rest in steps if kind == "COPY" for name in rest.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    packages = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    needed = packages | {"pyproject.toml", project["project"]["readme"], "LICENSE"}
    assert needed | {"requirements.lock"} == copied
    sent = (ROOT / ".dockerignore").read_text().split("\n")
    assert {line[1:] for line in sent if line.startswith("!")} == copied


def test_the_image_runs_as_a_user_without_rights() -> None:
    users = [rest for kind, rest in _steps() if kind == "USER"]
    assert users
    assert users[-1] not in {"root", "0"}


# ---- MLflow on PostgreSQL


def _service(name: str) -> dict[str, Any]:
    service: dict[str, Any] = _yaml(COMPOSE)["services"][name]
    return service


def _server_options() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, of SQLAlchemy
        from mlflow.cli import server

    words = [word.replace("${MLFLOW_HOST}", "tracker") for word in _service("mlflow")["command"]]
    words = [re.sub(r"\$\{MLFLOW_HOST:\?[^}]*\}", "tracker", word) for word in words]
    assert words[:2] == ["mlflow", "server"]
    return dict(server.make_context("server", words[2:]).params)


def test_the_server_starts_with_options_that_mlflow_has() -> None:
    options = _server_options()
    assert options["app_name"] == "basic-auth"
    assert options["allowed_hosts"].split(",")[:2] == ["tracker", "tracker:*"]
    assert options["artifacts_destination"].startswith(_service("mlflow")["working_dir"])


def test_the_database_is_reached_with_the_driver_that_is_locked() -> None:
    """SQLAlchemy's own choice for `postgresql://` is another driver."""
    url = create_engine(_server_options()["backend_store_uri"]).url
    assert _locked("psycopg2-binary")
    database = _service("postgres")["environment"]
    assert (url.username, url.database) == (database["POSTGRES_USER"], database["POSTGRES_DB"])
    assert url.host in _yaml(COMPOSE)["services"]
    assert url.password is None


def test_every_secret_of_the_server_comes_from_the_environment_or_nothing_starts() -> None:
    page = (PLACES / "README.md").read_text()
    secrets = {
        (name, value)
        for service in _yaml(COMPOSE)["services"].values()
        for name, value in service["environment"].items()
        if re.search("PASSWORD|SECRET|TOKEN", name)
    }
    assert len(secrets) == 4
    for _, value in secrets:
        asked = re.fullmatch(r"\$\{(\w+):\?set it to .+\}", value)
        assert asked is not None
        assert f"export {asked[1]}=$(openssl rand -hex " in page


def test_mlflow_reads_the_variables_that_the_server_gets() -> None:
    from mlflow import environment_variables

    names = [n for n in _service("mlflow")["environment"] if n.startswith("MLFLOW_")]
    assert len(names) == 2
    assert all(hasattr(environment_variables, name) for name in names)


def test_both_services_are_watched_and_keep_their_data() -> None:
    config = _yaml(COMPOSE)
    assert config["services"].keys() == {"postgres", "mlflow"}
    for service in config["services"].values():
        assert service["healthcheck"]["test"][0] == "CMD"
        kept = [volume.partition(":")[0] for volume in service["volumes"]]
        assert set(kept) <= config["volumes"].keys()
    assert "ports" not in config["services"]["postgres"]
    built = _service("mlflow")["build"]
    assert (PLACES / built["context"] / built["dockerfile"]).samefile(CONTAINERFILE)
    compile(_service("mlflow")["healthcheck"]["test"][-1], "healthcheck", "exec")
