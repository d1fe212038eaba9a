import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import studies
from studies.results.points import COLUMNS, with_attack_columns
from studies.study_file.loading import load_study
from tests.studies.cli.shell import Oat, is_a_sentence
from tests.studies.marks import NOLOAD

pytestmark = NOLOAD


@pytest.fixture(scope="module")
def with_mlflow(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished tiny study with its points in MLflow; not to be written."""
    storage = tmp_path_factory.mktemp("with_mlflow") / "storage"
    shutil.copytree(finished, storage)
    return storage


@pytest.fixture
def indexed(oat: Oat, study: Path, with_mlflow: Path) -> Path:
    """The finished tiny study with its points in MLflow; not to be written."""
    if not (with_mlflow / "mlflow.db").exists():
        assert oat("sync", study, "--storage", with_mlflow).code == 0
    return with_mlflow


@pytest.mark.mlflow
def test_sync_makes_the_database_and_counts_its_points(
    oat: Oat, study: Path, storage: Path
) -> None:
    for _ in range(2):
        said = oat("sync", study, "--storage", storage)
        assert (said.code, said.text, said.err) == (
            0,
            "MLflow has 5 points of this study.\n",
            "",
        )
    assert (storage / "mlflow.db").exists()


@pytest.mark.mlflow
def test_runs_queries_and_prints_in_every_format(oat: Oat, study: Path, indexed: Path) -> None:
    whole = with_attack_columns(studies.points(study, storage=indexed).drop(columns="folder"))
    command = ["runs", study, "--storage", indexed]

    as_csv = pd.read_csv(io.BytesIO(oat(*command, "--format", "csv").out))
    assert list(as_csv.columns) == [*COLUMNS, "ra_pgd1"]
    assert as_csv["point_key"].tolist() == whole["point_key"].tolist()
    assert as_csv["ra"].tolist() == pytest.approx(whole["ra"].tolist())

    as_json = oat(*command, "--format", "json").json
    assert [row["point_key"] for row in as_json] == whole["point_key"].tolist()
    assert [row["beta"] for row in as_json] == [None] * 4 + [1.0]

    as_parquet = pd.read_parquet(io.BytesIO(oat(*command, "--format", "parquet").out))
    pd.testing.assert_frame_equal(as_parquet, pd.DataFrame(whole), check_exact=True)

    as_table = oat(*command)
    assert (as_table.code, as_table.err) == (0, "")
    assert "5 rows" in as_table.text
    assert as_table.text.count("pgd_at") == 2
    assert "ra_pgd1" not in as_table.text  # there is no attack but each row's own


@pytest.mark.mlflow
def test_runs_takes_a_condition_and_columns(oat: Oat, study: Path, indexed: Path) -> None:
    said = oat(
        "runs", study, "--storage", indexed, "--format", "csv",
        "--where", "method == 'oat' and lam < 0.5", "--columns", "ra, sa,lam",
    )  # fmt: skip
    assert (said.code, said.err) == (0, "")
    found = pd.read_csv(io.BytesIO(said.out))
    assert list(found.columns) == ["ra", "sa", "lam"]
    assert found["lam"].tolist() == [0]
    none = oat("runs", study, "--storage", indexed, "--where", "ra > 1", "--format", "json")
    assert (none.code, none.json) == (0, [])
    table = oat("runs", study, "--storage", indexed, "--columns", "point_key,run_key")
    assert all(row["point_key"] in table.text for row in oat(
        "runs", study, "--storage", indexed, "--format", "json").json)  # fmt: skip


@pytest.mark.mlflow
def test_runs_shows_each_point_under_every_attack(
    oat: Oat, tiny: dict[str, Any], make_up: Callable[..., None], tmp_path: Path
) -> None:
    tiny["evaluate"] = {"attacks": [{"name": "pgd", "steps": steps} for steps in (5, 10)]}
    tiny["methods"] = tiny["methods"][1:]  # OAT with a λ set of its own has a long name
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(tiny))
    make_up(load_study(tiny), tmp_path)
    assert oat("sync", tmp_path / "two.yaml", "--storage", tmp_path).code == 0
    command = ["runs", tmp_path / "two.yaml", "--storage", tmp_path]
    whole = with_attack_columns(studies.points(tmp_path / "two.yaml", storage=tmp_path))
    level = whole["ra_pgd10"].median()
    said = oat(
        *command, "--where", f"ra_pgd10 >= {level} and attack == 'pgd5'",
        "--columns", "ra,ra_pgd5,ra_pgd10", "--format", "csv",
    )  # fmt: skip
    assert (said.code, said.err) == (0, "")
    found = pd.read_csv(io.BytesIO(said.out))
    assert (found["ra"] == found["ra_pgd5"]).all()
    assert len(found) == ((whole["ra_pgd10"] >= level) & (whole["attack"] == "pgd5")).sum() > 0
    table = oat(*command).text
    assert "ra_pgd5" in table
    assert "ra_pgd10" in table
    assert "…" not in table


@pytest.mark.mlflow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--columns", "sa,rra"], ("column 'rra'", "did you mean 'ra'")),
        (["--where", "robustness > 0.4"], ("`--where`", "robustness")),
        (["--where", "ra >"], ("`--where`", "ra >")),
        (["--where", "ra"], ("`--where`", "ra")),
        (["--where", ""], ("`--where`",)),
        (["--where", "lam = 0.3"], ("`--where`", "`==`")),
        (["--where", "ra_pgd2 > 0.4"], ("`--where`", "did you mean 'ra_pgd1'")),
        (["--where", "sa.to_csv('x')"], ("`--where`", "sa.to_csv")),
    ],
)
def test_runs_refuses_what_it_does_not_know(
    options: list[str], words: tuple[str, ...], oat: Oat, study: Path, indexed: Path
) -> None:
    is_a_sentence(oat("runs", study, "--storage", indexed, *options), *words)
