import json
import math
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest

from studies.comparison.answer import Comparison
from studies.report import charts, operating_points
from studies.report.origin import Origin
from studies.report.styles import series
from studies.report.training_charts import EVERY_LAM, UNKNOWN, loss_and_accuracy
from studies.results.mlflow_index import Links

Found = tuple[Comparison, Origin]


def _all(found: Found) -> dict[str, charts.Figure]:
    points = operating_points.slider_points(*found)
    loss, accuracy = loss_and_accuracy(*found)
    return {
        "front": charts.front(found[0], points),
        "price": charts.price(found[0]),
        "loss": loss,
        "accuracy": accuracy,
    }


@pytest.mark.parametrize("study", ["found", "along_widths"])
def test_plotly_knows_every_key_of_the_charts(study: str, request: Any) -> None:
    for figure in _all(request.getfixturevalue(study)).values():
        go.Figure(charts.json_safe(figure))


def test_every_mark_of_the_front_is_its_own_operating_point(along_widths: Found) -> None:
    points = operating_points.slider_points(*along_widths)
    figure = charts.front(along_widths[0], points)
    marks = [trace for trace in figure["data"] if "uid" not in trace]
    assert [trace["name"] for trace in marks] == [
        f"{line.name} ({'one model' if line.once else 'one model per mark'})"
        for line in series(along_widths[0].cells)
    ]
    assert [text for trace in marks for text in trace["meta"]["labels"]] == [
        point["value"].split()[0] for point in points
    ]
    assert [i for trace in marks for i in trace["customdata"]] == list(range(len(points)))
    for trace in marks:
        for i, x, y, text in zip(
            trace["customdata"], trace["x"], trace["y"], trace["hovertext"], strict=True
        ):
            assert (x, y) == (100 * points[i]["sa"], 100 * points[i]["ra"])
            assert points[i]["name"] in text
            assert all(run in text for run, _ in points[i]["runs"])
    assert [trace["uid"] for trace in figure["data"][len(marks) :]] == [charts.HERE, charts.NEAREST]


def test_an_operating_point_links_to_its_runs_by_seed(found: Found) -> None:
    comparison, origin = found
    cell = series(comparison.cells)[0].cells.iloc[0]
    linked = replace(origin, links=Links(points={cell["point_keys"]: "http://h/run"}))
    points = operating_points.slider_points(comparison, linked)
    assert points[0]["runs"] == [[f"seed 0: {cell['run_keys']}", "http://h/run"]]
    assert {url for point in points[1:] for _, url in point["runs"]} == {None}


def test_the_price_has_a_mark_for_each_front(along_widths: Found) -> None:
    comparison, _ = along_widths
    traces = charts.price(comparison)["data"]
    assert [trace["name"] for trace in traces] == comparison.fronts["front"].tolist()
    for trace, row in zip(traces, comparison.fronts.to_dict("records"), strict=True):
        assert trace["y"] == [row["hypervolume"]]
        assert trace["x"][0] == pytest.approx(row["train_cost"] / 1e6, rel=0.2)


def test_training_curves_have_a_legend_entry_for_each_variant(along_widths: Found) -> None:
    comparison, origin = along_widths
    loss, accuracy = loss_and_accuracy(comparison, origin)
    assert len(loss["data"]) == comparison.cells["variant"].nunique()
    assert len(accuracy["data"]) == 2 * len(loss["data"])
    texts = "".join(text for trace in loss["data"] for text in trace["hovertext"])
    for trial in origin.plan.trials:
        assert f"{trial.label}, seed {trial.seed}<br>epoch 1" in texts
    ends = [end for trace in loss["data"] for end in trace["meta"]["ends"]]
    assert {end["text"] for end in ends} == {EVERY_LAM, "λ=1"}
    last = {epochs[-1]["train_loss"] for epochs in origin.epochs.values()}
    assert {end["y"] for end in ends} <= last
    losses = [y for trace in loss["data"] for y in trace["y"] if y is not None]
    stored = [epoch["train_loss"] for epochs in origin.epochs.values() for epoch in epochs]
    assert sorted(losses) == sorted(stored)


def test_curves_of_trials_do_not_run_into_each_other(along_widths: Found) -> None:
    comparison, origin = along_widths
    loss, _ = loss_and_accuracy(comparison, origin)
    trials = sum(trace["x"].count(None) for trace in loss["data"])
    assert trials == len(origin.plan.trials)


def test_a_trial_that_is_not_judged_yet_has_its_curve(found: Found) -> None:
    comparison, origin = found
    cells = comparison.cells[comparison.cells["method"] != "trades"]
    loss, _ = loss_and_accuracy(replace(comparison, cells=cells), origin)
    assert UNKNOWN in [trace["name"] for trace in loss["data"]]


def test_what_json_cannot_hold_becomes_null() -> None:
    value = {"a": [math.nan, 1.0, (math.inf,)], "b": "NaN"}
    assert json.dumps(charts.json_safe(value)) == '{"a": [null, 1.0, [null]], "b": "NaN"}'
