"""Methods that users bring: docs/own.md as it is written, and what is wrong with theirs."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml

import studies
from baselines import PgdAt, Trades
from oat import own_code
from oat.dedicated import Dedicated
from oat.method import Oat, Oats
from oat.own_code import OwnCodeError, is_own
from studies.driver import nodes
from studies.driver.node_checks import judge_node
from studies.driver.same_data import KnownData
from studies.errors import StudyError
from studies.known_methods import METHODS, method_of
from studies.planning.run_keys import run_keys, trial_config
from studies.storage.local import LocalFolder
from studies.study_file.attack_blocks import ATTACK_BLOCKS
from studies.study_file.loading import load_study
from studies.study_file.method_blocks import METHOD_BLOCKS
from studies.study_file.tune_block import SWEPT
from studies.testing import check_method
from studies.trial.weights import pack
from tests.studies.cli.shell import Oat as InProcess
from tests.studies.marks import NOLOAD

PAGE = (Path(__file__).parents[2] / "docs" / "own.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FILES = {name: PYTHON[i] for i, name in ((0, "mart"), (2, "nets"), (3, "attacks"), (4, "data"))}
MART, CHECK, MAKE_DATA, CHECK_ALL = (PYTHON[i] for i in (0, 1, 5, 6))
*_, STUDY = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
OAT = Path(sys.executable).with_name("oat")
NAME = "my_pkg.mart:Mart"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's files, in which commands are called; nothing of it stays."""
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "__init__.py").write_text("")
    for name, text in FILES.items():
        (tmp_path / "my_pkg" / f"{name}.py").write_text(text)
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    _forget()


def _forget() -> None:
    """Leave nothing of the user's methods, as a process that starts has nothing of them."""
    for table in (METHODS, METHOD_BLOCKS, ATTACK_BLOCKS, SWEPT):
        for name in [name for name in table if is_own(name)]:
            del table[name]
    for module in [m for m in sys.modules if m.partition(".")[0] == "my_pkg"]:
        del sys.modules[module]
    own_code._import.cache_clear()


def test_the_checks_of_the_page_pass(home: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join([CHECK, MAKE_DATA, CHECK_ALL])],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "(1, 8, 8)\n"


@pytest.mark.parametrize(
    "method",
    [PgdAt(0.3), Trades(6.0), Trades(1.0, attack="study"), Oat(), Oats(width_mults=(0.5, 1.0))],
    ids=str,
)
def test_our_own_methods_pass_the_same_check(method: Any) -> None:
    check_method(method)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.mlflow
@NOLOAD
def test_the_study_of_the_page_runs_and_mart_stands_beside_the_others(
    home: Path, oat: InProcess
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def apart(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [OAT, *words], cwd=home, capture_output=True, text=True, check=False, env=environment
        )

    exec(MAKE_DATA, {})
    ended = apart("run", "study.yaml")
    assert ended.returncode == 0, ended.stderr
    assert f"{NAME} β=5" in ended.stdout
    points = studies.points("study.yaml")
    own = points[points["method"] == NAME]
    assert sorted(own["beta"]) == [1, 1, 5, 5]
    assert set(points["attack"]) == {"pgd10", "square_patch-size2"}
    assert own["lam"].isna().all()
    asked = oat("runs", "study.yaml", "--where", f"method == '{NAME}' and beta > 2")
    assert "2 rows" in asked.text  # under either attack
    network = studies.load_model("study.yaml", NAME, beta=5).at()
    assert network(torch.rand(2, 1, 8, 8)).shape[1] == 10
    once_for_all = studies.load_model("study.yaml")
    assert once_for_all.classes[3] == "digit 3"
    images = torch.rand(4, 1, 8, 8)
    lams = torch.tensor([0.0, 0.5, 0.5, 1.0])
    knob = once_for_all.knob()(images, lams)
    for row, lam in enumerate(lams.tolist()):
        assert torch.allclose(once_for_all.at(lam)(images)[row], knob[row], atol=1e-5)
    path = home / "at-half.safetensors"
    studies.export("study.yaml", at_lam=0.5, to="safetensors", out=path)
    assert torch.equal(studies.load_model(path).at()(images), once_for_all.at(0.5)(images))
    # other code judges or trains anew, and nothing of the old is part of the study
    with (home / "my_pkg" / "attacks.py").open("a") as file:
        file.write("# a remark\n")
    states = {
        t["state"] for t in json.loads(apart("plan", "study.yaml", "--json").stdout)["trials"]
    }
    assert states == {"evaluate"}
    (home / "my_pkg" / "attacks.py").write_text(FILES["attacks"])
    with (home / "my_pkg" / "mart.py").open("a") as file:
        file.write("# a remark\n")
    changed = json.loads(apart("plan", "study.yaml", "--json").stdout)
    states = {trial["trial"]: trial["state"] for trial in changed["trials"]}
    assert states == {
        "oat lambda_choices=(0.0,0.5,1.0)": "done",
        "trades β=6": "done",
        f"{NAME} β=1": "missing",
        f"{NAME} β=5": "missing",
    }
    # an error of theirs is told as theirs: at once, and where it comes later in the training
    (home / "my_pkg" / "mart.py").write_text(
        MART.replace("yield boosted", "raise KeyError('mine')\n        yield boosted")
    )
    failed = apart("run", "study.yaml")
    assert failed.returncode == 2
    said = f"The method '{NAME}' failed (mart.py, line "
    assert said in failed.stderr
    assert "KeyError: 'mine'" in failed.stderr
    late = "if len(seen) > 2: raise KeyError('mine')"
    (home / "my_pkg" / "mart.py").write_text(
        "seen = []\n"
        + MART.replace("yield boosted", f"seen.append(1)\n        {late}\n        yield boosted")
    )
    failed = apart("run", "study.yaml")
    assert failed.returncode == 1
    assert said in failed.stderr


def test_its_options_ranges_and_lists_are_those_of_the_study_file(home: Path) -> None:
    study = load_study("study.yaml")
    assert [m.beta for m in study.all_methods() if m.name == NAME] == [1, 5]
    assert load_study(study) == study
    assert load_study(yaml.safe_load(yaml.safe_dump(study.dump()))) == study
    where = f"methods.2={{name: '{NAME}', "
    for more, said in (
        ("beta: -1}", "`methods.2`: `beta` must be a finite number of at least 0, got -1"),
        ("gamma: 1}", "Unknown key 'methods.2.gamma'"),
        ("beta: many}", "`methods.2.beta` must be a valid number or a list, got 'many'"),
        ("beta: [1, 1]}", "Duplicate trial: my_pkg.mart:Mart β=1 is listed 2 times"),
    ):
        with pytest.raises(StudyError) as refused:
            load_study("study.yaml", [where + more])
        assert said in str(refused.value)
    ours = "model={name: resnet8, width: 4}"
    narrow = load_study("study.yaml", [ours, f"{where}width_mults: [0.5, 1]}}"])
    assert [e.label for e in narrow.entries()][2:] == [f"{NAME} β=5 width=0.5", f"{NAME} β=5"]


def test_the_code_is_part_of_the_run_key_and_must_be_the_same_on_a_worker(home: Path) -> None:
    study = load_study("study.yaml")
    method = study.all_methods()[-1]
    config, keys = trial_config(study, method, 0), run_keys(study)
    sent = json.loads(json.dumps(config))
    assert method_of(sent) == method
    with (home / "my_pkg" / "mart.py").open("a") as file:
        file.write("# a remark\n")
    # this process runs the code that it has imported, which is not what the file says
    for ask in (lambda: run_keys(study), lambda: method_of(sent)):
        with pytest.raises(StudyError, match="has changed since this process imported it"):
            ask()
    _forget()
    others = run_keys(load_study("study.yaml"))
    assert len(keys - others) == len(others - keys) == 2
    with pytest.raises(StudyError, match=r"is not that of the trial .* give every node the same"):
        method_of(sent)


FAULTS: dict[str, tuple[str, str, str]] = {
    "no module": ("my_pkg.none:Mart", "", "There is no module 'my_pkg.none'"),
    "no package": ("nobody.mart:Mart", "", "There is no module 'nobody.mart'"),
    "no class": ("my_pkg.odd:Mart", "", "The module 'my_pkg.odd' has no 'Mart'"),
    "a package it needs": ("my_pkg.odd:Mart", "import not_there", "needs the package 'not_there'"),
    "its import fails": ("my_pkg.odd:Mart", "1 / 0", "cannot be imported: ZeroDivisionError"),
    "its syntax": ("my_pkg.odd:Mart", "class Mart(:", "cannot be imported: SyntaxError"),
    "a function": ("my_pkg.odd:Mart", "def Mart(): ...", "must be a frozen dataclass"),
    "not frozen": (
        "my_pkg.odd:Mart",
        "from dataclasses import dataclass\n@dataclass\nclass Mart:\n    beta: float = 1.0",
        "must be frozen: `@dataclass(frozen=True)`",
    ),
    "parts missing": (
        "my_pkg.odd:Mart",
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Mart:\n    beta: float = 1.0",
        "lacks `conditioning`, `losses`, `fixed_shapes`, `operating_points`, `work`; inherit from",
    ),
    "no value": (
        "my_pkg.odd:Mart",
        "from dataclasses import dataclass\nfrom oat.dedicated import Dedicated\n"
        "@dataclass(frozen=True)\nclass Mart(Dedicated):\n    def losses(self): ...",
        "needs a field `lam` or `beta`",
    ),
    "a line break": ("my_pkg.odd:Mart\\n", "", "Unknown method"),
    "no name": (":", "", "Unknown method ':'"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_is_no_method_is_one_sentence_that_says_what_is_missing(case: str, home: Path) -> None:
    name, text, said = FAULTS[case]
    (home / "my_pkg" / "odd.py").write_text(text)
    with pytest.raises(StudyError) as refused:
        load_study("study.yaml", [f'methods.2={{name: "{name}", beta: 1}}'])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@dataclass(frozen=True)
class Faulty(Dedicated):
    beta: float = 1.0
    fault: str = ""

    def losses(self, model, images, labels, *, attack, generator, label_smoothing=0.0):  # type: ignore[no-untyped-def]
        from torch.nn import functional

        if self.fault == "in place":
            images.add_(0.1)
        logits = model(images)
        loss = functional.cross_entropy(logits, labels, reduction="none")
        match self.fault:
            case "shape":
                yield loss.mean()
            case "infinite":
                yield loss / 0
            case "random":
                yield loss * torch.rand(())
            case "gradient":
                yield logits.detach().sum(1) + model.head.bias.sum()
            case "nothing":
                return
            case "detached":
                yield loss.detach()
            case "number":
                yield 1.0
            case "raises":
                raise KeyError("mine")
            case _:
                yield loss


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("shape", r"must yield a loss for each image, shape \(12,\), got \(\)"),
        ("infinite", "values that are not finite"),
        ("random", "must draw from `generator` alone"),
        ("gradient", "gives no gradient to stem"),
        ("in place", "must leave the images as they are"),
        ("nothing", "yields nothing"),
        ("detached", "gives no gradient: no weight decides it"),
        ("number", r"shape \(12,\), got float"),
        ("raises", r"Faulty failed \(test_own_methods.py, line \d+\): KeyError: 'mine'"),
    ],
)
def test_the_check_finds_what_is_wrong_with_a_method(fault: str, said: str) -> None:
    check_method(Faulty())
    with pytest.raises(OwnCodeError, match=said):
        check_method(Faulty(fault=fault))


def test_a_node_without_the_code_or_with_other_code_is_named(home: Path) -> None:
    study, folder = load_study("study.yaml"), LocalFolder(home / "shared")
    folder.write("marker", b"")
    exec(MAKE_DATA, {})
    own_code.ALLOWED.clear()  # as on a node, which the driver tells
    sight = nodes._look_around(study.data, folder.uri, "marker", study.own_code())
    assert "data_error" not in sight
    told: Any = {"name": "node 10.0.0.7", **sight}

    def said_of(codes: dict[str, str]) -> tuple[str, str]:
        answer: Any = {**told, "codes": {**told["codes"], **codes}}
        (check,) = (
            check
            for check in judge_node(study, folder, answer, time.time(), KnownData("", {}))
            if check.name == "node 10.0.0.7: code"
        )
        return check.state, check.said

    digest = told["codes"][NAME]
    assert said_of({}) == ("ok", ", ".join(f"{k} {v}" for k, v in told["codes"].items()))
    state, said = said_of({NAME: "0123456789ab"})
    assert state == "failed"
    assert f"has other code of the method '{NAME}' (0123456789ab there, {digest} here)" in said
    (home / "my_pkg" / "mart.py").unlink()
    sys.modules.pop("my_pkg.mart")
    state, said = said_of({NAME: f"There is no module 'my_pkg.mart' of the method '{NAME}'; …"})
    assert state == "failed"
    assert "There is no module 'my_pkg.mart'" in said


def test_the_schema_for_editors_takes_it(home: Path) -> None:
    jsonschema.validate(yaml.safe_load(STUDY), studies.schema())
    for name in ("my_pkg.mart", "my_pkg.mart:", ":Mart", "my pkg:Mart"):
        study = yaml.safe_load(STUDY.replace(NAME, name))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(study, studies.schema())


def test_a_file_in_storage_has_no_code_run_that_no_study_names(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_code, "ALLOWED", set())
    (home / "my_pkg" / "odd.py").write_text("raise SystemExit('it has run')")
    config = trial_config(load_study("quickstart"), PgdAt(), 0)
    faulty: Any = {**config, "method": {"name": "my_pkg.odd:Mart", "beta": 1.0, "code": "0" * 12}}
    with pytest.raises(StudyError, match="no study does, so that its code is not run"):
        method_of(faulty)
    state = {"weight": torch.zeros(1)}
    said = {"config": faulty, "image_shape": [1, 8, 8], "classes": ["a", "b"], "run_key": "0" * 12}
    path = home / "odd.safetensors"
    path.write_bytes(pack(state, said))
    with pytest.raises(StudyError, match="its code is not run"):
        studies.load_model(path)
    assert "my_pkg.odd" not in sys.modules


SPOKEN = """
from dataclasses import dataclass
from baselines import PgdAt

@dataclass(frozen=True)
class Spoken(PgdAt):
    word: str = ""
"""


def test_a_source_that_two_models_are_called_is_refused(home: Path, tiny: dict[str, Any]) -> None:
    (home / "my_pkg" / "spoken.py").write_text(SPOKEN)
    both = [{"name": "my_pkg.spoken:Spoken", "lam": 0.5, "word": word} for word in ("a b", "ab")]
    load_study({**tiny, "methods": [*tiny["methods"], *both]})
    label = "my_pkg.spoken:Spoken word=ab λ=0.5"
    started = {"name": "pgd_at", "lam": [0.7], "start": {"from": label, "epochs": 1}}
    with pytest.raises(StudyError, match="2 models of the study are called"):
        load_study({**tiny, "methods": [*tiny["methods"], *both, started]})
