import configparser
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["baselines", "oat", "studies"]
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(project: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the source so that nothing is left in the source."""
    copy = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, copy / package, ignore=ignore)
    for name in ["pyproject.toml", project["project"]["readme"], "LICENSE"]:
        shutil.copy(ROOT / name, copy / name)
    subprocess.run(
        [sys.executable, "-c", BUILD], cwd=copy, check=True, capture_output=True, text=True
    )
    (built,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


def _metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = [path for path in wheel.namelist() if path.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


@pytest.mark.slow
def test_the_wheel_has_exactly_the_three_import_packages(wheel: zipfile.ZipFile) -> None:
    assert _metadata(wheel, "top_level.txt").split() == PACKAGES
    roots = {name.partition("/")[0] for name in wheel.namelist()}
    assert {root for root in roots if not root.endswith(".dist-info")} == set(PACKAGES)
    assert "Name: oat-studies\n" in _metadata(wheel, "METADATA")


@pytest.mark.slow
def test_the_wheel_has_every_module_and_every_file_that_the_code_reads(
    wheel: zipfile.ZipFile,
) -> None:
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"studies/presets/quickstart.yaml", "studies/report/templates/report.html"} <= sources
    assert {f"{package}/py.typed" for package in PACKAGES} <= sources
    packed = {name for name in wheel.namelist() if name.partition("/")[0] in PACKAGES}
    assert packed == sources


@pytest.mark.slow
def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    points = configparser.ConfigParser()
    points.read_string(_metadata(wheel, "entry_points.txt"))
    assert dict(points["console_scripts"]) == {"oat": "studies.cli.entry:main"}


def test_every_folder_of_modules_is_listed_by_name(project: dict[str, Any]) -> None:
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    listed = project["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(found)
    assert "package-dir" not in project["tool"]["setuptools"]
    for name in listed:
        assert (ROOT / name.replace(".", "/") / "__init__.py").exists()


def _locked() -> dict[str, list[str]]:
    """Return the lines of each requirement of the lock, by its name."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            match = re.match(r"([a-z0-9][a-z0-9._-]*)==", line)
            assert match, line
            found.setdefault(match[1], []).append(line)
    return found


def test_the_lock_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert "://" not in text
    assert "--index" not in text
    assert " @ " not in text
    for name, lines in _locked().items():
        for line in lines:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), name


def test_the_lock_has_everything_that_the_project_asks_for(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    assert "oat-studies[autoattack,cluster,onnx]" in extras["dev"]
    asked = project["project"]["dependencies"] + [
        *extras["dev"],
        *extras["autoattack"],
        *extras["cluster"],
        *project["build-system"]["requires"],
    ]
    names = {re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower() for requirement in asked}
    assert names - {"oat-studies"} <= _locked().keys()
