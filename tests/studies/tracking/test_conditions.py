import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studies.errors import QueryError
from studies.planning.expand import make_plan
from studies.results.points import COLUMNS, attack_column, frame, with_attack_columns
from studies.results.reading import study_points
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.tracking.conditions import parse_condition
from studies.tracking.tracker import Tracker
from tests.studies.marks import NOLOAD

TYPES = {**COLUMNS, **dict.fromkeys(("ra_pgd5", "ra_pgd10", "ra_pgd5_0_05"), "float64")}
EVERYTHING: dict[str, Any] = {
    "name": "everything",
    "data": {"name": "digits"},
    "train": {"ema": 0.9},
    "attack": {"eps": 0.1},
    "seeds": [0, 1],
    "methods": [
        {"name": "oat", "lambda_choices": [0, 0.2, 1]},
        {"name": "oat", "lambda_choices": [0, 0.2, 1], "dual_bn": False},
        {"name": "pgd_at", "lam": [0, 0.2, 1]},
        {"name": "trades", "beta": [1, 6]},
    ],
    "evaluate": {
        "attacks": [
            {"name": "pgd", "steps": 5},
            {"name": "pgd", "steps": 10},
            {"name": "pgd", "steps": 5, "eps": 0.05},
        ],
        "checkpoints": ["last", "averaged"],
    },
}


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        (
            "method == 'oat' and ra_pgd5 > 0.4 and lam <= 0.3",
            ["params.`method` = 'oat'", "metrics.`ra_pgd5` > 0.4", "metrics.`lam` <= 0.3"],
        ),
        ("0.1 <= lam < 0.3", ["metrics.`lam` >= 0.1", "metrics.`lam` < 0.3"]),
        ("0.5 < ra & 'oat' == method", ["metrics.`ra` > 0.5", "params.`method` = 'oat'"]),
        ("lam > -0.5 and lam < +1e-05", ["metrics.`lam` > -0.5", "metrics.`lam` < 0.00001"]),
        ("seed != 1 and method != 'oat'", ["metrics.`seed` != 1", "params.`method` != 'oat'"]),
        ("ra > 0.4 and (lam < 1 or lam.isna())", ["metrics.`ra` > 0.4"]),
        ("attack == 'pgd5@0.05'", ["params.`attack` = 'pgd5@0.05'"]),
        ("ra > 0.4 # most\nand sa > 0.9", ["metrics.`ra` > 0.4", "metrics.`sa` > 0.9"]),
    ],
)
def test_what_mlflow_can_say_of_a_condition_is_left_to_it(text: str, clauses: list[str]) -> None:
    assert list(parse_condition(text, TYPES).clauses) == clauses


@pytest.mark.parametrize(
    "text",
    [
        "lam != 0.2",  # true of TRADES, of which MLflow has no λ
        "train_units != 5",  # true of networks from outside, whose price nobody knows
        "train_device_seconds != 5",
        "ra_pgd5_0_05 != 0.2",
        "ra > 0.4 or lam < 1",
        "not ra > 0.4",
        "lam in [0.1, 0.2]",
        "lam + beta > 1",
        "eps == 8/255",
        "ra_pgd5 > ra_pgd10",
        "method > 'oat'",
        'variant == "it\'s"',
        "variant == 'a\"b'",
        "variant == 'a\\\\b'",
        "variant == '50%'",
        "variant == ''",
        "variant.str.contains('bn')",
        "beta < 1e999",
        "flops != 9007199254740993",
        "flops < 1e300",
    ],
)
def test_what_mlflow_would_take_otherwise_is_left_to_pandas(text: str) -> None:
    assert parse_condition(text, TYPES).clauses == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a condition such as"),
        ("  ", "must be a condition such as"),
        ("'oat'", "not text"),
        ("ra", "not a number"),
        ("0.4", "not a number"),
        ("oat", "Unknown column 'oat'"),
        ("rra > 0.4", "did you mean 'ra'"),
        ("ra_pdg5 > 0.4", "did you mean 'ra_pgd5'"),
        ("robustness > 0.4 and ra > 0.4", "Unknown column 'robustness'"),
        ("lam = 0.3", "`==`, not with `=`"),
        ("method = 'oat' and ra > 0.4", "`==`, not with `=`"),
        ("method == oat", "in quotes (`method == 'oat'`)"),
        ("lam == '0.3'", "`lam`, a number, with `'0.3'`, text"),
        ("method == 3", "`method`, text, with `3`, a number"),
        ("lam in ['0.3']", "needs a number where `'0.3'` is text"),
        ("lam in 0.3", "needs a list of values after `in`"),
        ("lam in [ra]", "needs a list of values after `in`"),
        ("lam == [0.3]", "needs `in` before the list `[0.3]`"),
        ("ra > 0.4 and sa", "needs a condition where `sa` is a number"),
        ("lam + 'a' > 1", "needs a number where `'a'` is text"),
        ("1 < 2", "must be about columns"),
        ("1 in [1, 2]", "must be about columns"),
        ("ra > 0.4 and True", "not `True`"),
        ("lam == None", "`x.isna()`"),
        ("lam is None", "`x.isna()`"),
        ("ra >", "cannot be read"),
        ("(ra > 0.4", "cannot be read"),
        ("ra > 0.4; sa > 0.4", "cannot be read"),
        ("ra > 0.4 AND sa > 0.4", "cannot be read"),
        ("ra > 'a", "cannot be read"),
        ("ra > \x00", "cannot be read"),
        ("(" * 400 + "ra > 0" + ")" * 400, "cannot be read"),
        ("not " * 3000 + "ra > 0", "nested too deeply"),
        ("@level < ra", "no variables"),
        ("`ra` > 0.4", "no backticks"),
        ("lam ** 99 > 0", "not `lam ** 99`"),
        ("ra > ra.max()", "not `ra.max()`"),  # would depend on which rows came back
        ("sa.to_csv('points.csv')", "not `sa.to_csv"),
        ("__import__('os').system('true')", "not `__import__"),
        ("ra.__class__ == ra", "not `ra.__class__`"),
        ("variant.str.contains(method)", "not `variant.str.contains(method)`"),
        ("lam.str.contains('x')", "needs text where `lam` is a number"),
        ("(lambda: 1)() == ra", "not `(lambda: 1)()`"),
        ("[x for x in sa]", "not `[x for x in sa]`"),
    ],
)
def test_what_is_no_condition_is_refused_with_one_sentence(text: str, said: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_condition(text, TYPES)
    assert said in str(caught.value)
    assert "`--where`" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ra > 50", ("`ra` with `50`", "0.5 for 50 %")),
        ("50 < ra", ("`ra` with `50`", "0.5 for 50 %")),
        ("ra_pgd5_0_05 >= 1.5", ("`ra_pgd5_0_05` with `1.5`",)),
        ("method == 'oat' and not sa_low <= 90", ("`sa_low` with `90`",)),
        ("40 <= ra <= 60", ("`ra` with `40`",)),
        ("ra in [0.5, 60]", ("`ra` with `60`",)),
        ("abs(sa - ra) > 5", ("`abs(sa - ra)` with `5`", "`sa` is a fraction")),
        ("(ra_pgd5 + ra_pgd10) / 2 > 50", ("fraction",)),
        ("ra > 100 * 0.5", ("`ra` with `100 * 0.5`",)),
        ("check_zero_gradients > 10", ("`check_zero_gradients` is a fraction",)),
        ("width_mult == 50", ("`width_mult` is a fraction",)),
        ("lam > 2", ("`lam` is a fraction",)),
        ("eps == 8", ("`eps` is a fraction", "8/255")),
        ("step_size < 2", ("`step_size` is a fraction", "8/255")),
    ],
)
def test_a_fraction_is_not_compared_with_a_percent(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(QueryError) as caught:
        parse_condition(text, TYPES)
    for word in (*words, "`--where`", text):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "100 * ra > 50",
        "ra <= 1",
        "sa + ra > 1.5",
        "ra > 0.4 + lam",
        "beta > 6",
        "eps == 8/255",
        "eps * 255 > 7",
        "images >= 1000",
        "check_images > 50",
        "ra / 0.01 > 50",
        "epochs > 10 and seed == 2",
        "ra / sa > 5",
    ],
)
def test_what_a_fraction_can_reach_is_asked(text: str) -> None:
    assert parse_condition(text, TYPES).expression


def test_what_pandas_refuses_is_one_sentence_too() -> None:
    table = pd.DataFrame({"variant": pd.Series(["oat"], dtype="str")})
    with pytest.raises(QueryError, match="`--where` cannot be applied"):
        parse_condition("variant.str.contains('(')", TYPES).apply(table)


def test_an_attack_has_a_column_of_letters_digits_and_underscores() -> None:
    assert attack_column("pgd20") == "ra_pgd20"
    assert attack_column("pgd20@0.05") == "ra_pgd20_0_05"


def _row(key: str, attack: str, ra: float, **odd: Any) -> dict[str, Any]:
    row = {name: "same" if kind == "str" else 1.0 for name, kind in COLUMNS.items()}
    return {**row, "point_key": key, "attack": attack, "ra": ra, **odd}


def test_an_operating_point_has_its_ra_under_every_attack_on_each_of_its_rows() -> None:
    rows = [
        _row("a", "pgd20", 0.5, lam=None),
        _row("b", "pgd20", 0.4, lam=None),  # with another step size, say
        _row("c", "auto", 0.3, lam=None),
        _row("d", "pgd20", 0.9, lam=0.5),
        _row("e", "auto", 0.8, lam=0.5, images=2),
        _row("h", "auto", 0.2, lam=0.5, images=1),  # on fewer images
        _row("f", "auto", 0.7, lam=0.5, checkpoint_rule="chosen"),
        _row("g", "auto", 0.6, lam=0.5, training_id="another"),
    ]
    wide = with_attack_columns(frame(rows)).set_index("point_key").sort_index()
    assert wide["ra_pgd20"].fillna(-1).tolist() == [0.4, 0.4, 0.4, 0.9, 0.9, -1, -1, 0.9]
    assert wide["ra_auto"].fillna(-1).tolist() == [0.3, 0.3, 0.3, 0.8, 0.8, 0.7, 0.6, 0.8]


def test_no_points_have_no_attacks() -> None:
    assert list(with_attack_columns(frame([])).columns) == list(COLUMNS)


@dataclass(frozen=True)
class Store:
    """A study in MLflow and what its frame of points is without."""

    tracker: Tracker
    points: pd.DataFrame


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make_up: Any) -> Store:
    """OAT, PGD-AT and TRADES, two seeds, two rules, three attacks; some points are missing."""
    storage = tmp_path_factory.mktemp("where")
    study = load_study(EVERYTHING)
    make_up(study, storage, lambda point: point["lam"] != 1 or point["attack"]["eps"] != 0.05)
    folder = LocalFolder(storage / study.name)
    plan = make_plan(study, folder)
    tracker = Tracker(f"sqlite:///{storage / 'mlflow.db'}", study.name, storage.as_uri())
    tracker.sync(plan, folder)
    points = study_points(plan, folder).drop(columns="folder")
    return Store(tracker, with_attack_columns(points))


@pytest.fixture
def returned(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of runs that MLflow returned, a search each."""
    counts: list[int] = []
    search = store.tracker.client.search_runs

    def counting(*arguments: Any) -> Any:
        found = search(*arguments)
        counts.append(len(found))
        return found

    monkeypatch.setattr(store.tracker.client, "search_runs", counting)
    return counts


def _agree(store: Store, text: str) -> pd.DataFrame:
    """Check that a query of MLflow finds what pandas alone does."""
    condition = parse_condition(text, store.tracker.columns())
    expected = condition.apply(store.points)
    found = condition.apply(store.tracker.points(condition.clauses))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    return found


@NOLOAD
@pytest.mark.mlflow
def test_the_wide_columns_come_back_exactly(store: Store) -> None:
    assert store.tracker.columns() == {
        **COLUMNS,
        **dict.fromkeys(TYPES.keys() - COLUMNS.keys(), "float64"),
    }
    pd.testing.assert_frame_equal(store.tracker.points(), store.points, check_exact=True)
    own = store.points.apply(lambda row: row[attack_column(row["attack"])], axis=1)
    assert (own == store.points["ra"]).all()
    assert (store.points["ra_pgd5_0_05"].isna() == (store.points["lam"] == 1)).sum() > 0


@NOLOAD
@pytest.mark.mlflow
def test_mlflow_returns_no_more_than_it_must(
    store: Store, returned: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    one = store.points.iloc[3]
    text = (
        f"run_key == '{one.run_key}' and attack == '{one.attack}' and width_mult == 1 and "
        f"checkpoint_rule == '{one.checkpoint_rule}' and lam == {one.lam} and ra > 0"
    )
    with caplog.at_level(logging.DEBUG, logger="oat.tracking"):
        found = _agree(store, text)
    assert found["point_key"].tolist() == [one["point_key"]]
    assert returned == [1]
    assert "metrics.`lam` = " in caplog.text

    level = float(store.points["ra_pgd10"].median())
    _agree(store, f"ra_pgd10 > {level} and (method == 'oat' or method == 'trades')")
    assert returned[1] == (store.points["ra_pgd10"] > level).sum() < len(store.points)


@NOLOAD
@pytest.mark.mlflow
@pytest.mark.parametrize(
    "text",
    [
        "lam == 0.2",
        "lam != 0.2",
        "0.2 != lam",
        "not lam == 0.2",
        "lam.isna()",
        "beta.notna() and beta < 6",
        "lam <= 0.2 and beta > 0",
        "-1 < lam <= 0.2",
        "lam >= -0.0",
        "0 <= lam < 1 and ra_pgd10 > 0.5",
        "ra_pgd5_0_05 != 0.5",
        "ra_pgd5_0_05.isna() and attack == 'pgd5'",
        "ra_pgd5 > ra_pgd10",
        "abs(ra_pgd5 - ra_pgd10) < 0.1 and sa > 0.95",
        "(ra_pgd5 + ra_pgd10) / 2 > 0.5",
        "attack == 'pgd5@0.05'",
        "attack != 'pgd5'",
        "attack in ['pgd5', 'pgd10'] and seed not in [1]",
        "lam in [0.2, -1]",
        "lam not in [0.2]",
        "lam in []",
        "attack.str.startswith('pgd5') and ~(seed == 1)",
        "variant.str.contains('dual_bn') or method == 'trades'",
        "variant == 'oat dual_bn=False'",
        "variant == 'OAT'",
        "variant == 'oat = x AND y' or seed == 1",
        "variant != 'oat = x AND y'",
        "variant != '-- NULL' and variant != 'select'",
        " and ".join(f"ra != {i / 1000}" for i in range(100)),
        "variant == 'o%'",
        'variant == "it\'s"',
        "'oat' == variant & 0.2 == lam | seed == 1",
        "method > 'oat'",
        "method == variant",
        "sa >= ra >= 0.5",
        "flops == 1000000",
        "flops < 9007199254740993",
        "flops < 1e300",
        "flops > 1e-300",
        "beta < 1e999",
        "beta > 20",
        "seed == 1.0 and seed <= 1 and seed > 0",
        "seed != 0 and checkpoint_rule != 'last'",
        "not (ra > 0.5 and lam < 1) and method != 'oat'",
        "train_device_seconds < 12 and results_version == 2",
    ],
)
def test_mlflow_and_pandas_together_find_what_pandas_alone_does(text: str, store: Store) -> None:
    _agree(store, text)


@st.composite
def _comparisons(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        column = draw(st.sampled_from(["lam", "beta", "ra", "ra_pgd10", "ra_pgd5_0_05", "seed"]))
        values = [-0.5, 0, 0.2, 0.5, 0.75, 1, *([6] if column in {"beta", "seed"} else [])]
        value = repr(draw(st.sampled_from(values) | st.floats(0, 1)))
        sign = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
    else:
        column = draw(st.sampled_from(["method", "attack", "checkpoint_rule"]))
        value = repr(draw(st.sampled_from(["oat", "trades", "pgd5", "pgd5@0.05", "last", "x y"])))
        sign = draw(st.sampled_from(["==", "!="]))
    said = [column, sign, value]
    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    return " ".join(said if draw(st.booleans()) else [value, flipped.get(sign, sign), column])


def _joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    some = st.lists(parts, min_size=2, max_size=3)
    return st.one_of(
        some.map(" and ".join),
        some.map(lambda texts: f"({' or '.join(texts)})"),
        parts.map("(not {})".format),
    )


@NOLOAD
@pytest.mark.mlflow
@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.recursive(_comparisons(), _joined, max_leaves=5))
def test_no_condition_is_answered_otherwise_than_by_pandas(text: str, store: Store) -> None:
    _agree(store, text)


@NOLOAD
@pytest.mark.mlflow
def test_an_attack_that_is_new_reaches_the_points_that_are_there(
    tmp_path: Path, make_up: Any
) -> None:
    source = {**EVERYTHING, "name": "grown", "seeds": [0], "evaluate": {}}
    source["methods"] = [{"name": "oat", "lambda_choices": [0, 1]}, {"name": "trades", "beta": [1]}]
    known: dict[str, dict[str, float]] = {}
    for i, steps in enumerate(([20], [20, 50], [20, 50], [20])):
        study = load_study(
            {**source, "evaluate": {"attacks": [{"name": "pgd", "steps": n} for n in steps]}}
        )
        folder = LocalFolder(tmp_path / "grown")
        if i < 3:  # at last the attack is left out of the study, and its points stay in storage
            make_up(study, tmp_path)
        tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "grown", tmp_path.as_uri())
        tracker.sync(make_plan(study, folder), folder)
        runs = tracker.client.search_runs([tracker.experiment_id], "tags.`oat.kind` = 'point'")
        assert known.keys() <= {run.info.run_id for run in runs}
        known = {run.info.run_id: run.data.metrics for run in runs}
        columns = {"ra_pgd20", "ra_pgd50"} if len(known) > 3 else {"ra_pgd20"}
        assert tracker.columns().keys() - COLUMNS.keys() == columns
        for run in runs:
            assert columns <= run.data.metrics.keys()
            for name in columns:
                history = tracker.client.get_metric_history(run.info.run_id, name)
                assert len(history) == 1
    assert len(known) == 6
    both = "metrics.ra_pgd20 > 0 AND metrics.ra_pgd50 > 0"
    assert len(tracker.client.search_runs([tracker.experiment_id], both)) == 6
