"""The demo over HTTP, from its real server: what it tells, and what it refuses."""

import re
import socket
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

import studies
from oat.adversaries import Pgd
from oat.data import DataConfig, Split, load, unit
from oat.evaluation import evaluate
from studies.deploying.demo_server import DemoPage
from studies.errors import ModelError
from studies.results.mlflow_index import write_index
from studies.storage.local import LocalFolder
from tests.studies.deploying.asking import Answer, ask, pixels_of

HERE: dict[str, Any] = {"index": 3, "lam": 1, "width": 1, "steps": 1}


def test_a_prediction_is_that_of_the_model_and_the_point_that_of_the_study(
    page: DemoPage, finished: Path, tiny: dict[str, Any]
) -> None:
    test = load(DataConfig("digits")).test
    network = studies.load_model(tiny, storage=finished).at(1.0)
    told = ask(page, "look", HERE).json
    shown = pixels_of(told["image"]).float() / 255  # digits have 17 levels, a PNG has 256
    torch.testing.assert_close(shown, unit(test.images[3]), rtol=0, atol=0.5 / 255 + 1e-6)
    assert told["label"] == int(test.labels[3])
    with torch.no_grad():
        expected = network(unit(test.images[3:4]))[0].softmax(0)
    torch.testing.assert_close(torch.tensor(told["probabilities"]), expected)
    assert told["prediction"] == int(expected.argmax())
    points = studies.points(tiny, storage=finished)
    (row,) = points[(points["method"] == "oat") & (points["lam"] == 1)].to_dict("records")
    (sa, said, _), (ra, under, _) = told["found"]
    assert (sa, ra) == ("SA", f"RA, {row['attack']}")
    assert said == (
        f"{100 * row['sa']:.1f} % [{100 * row['sa_low']:.1f}, {100 * row['sa_high']:.1f}]"
        " on 50 images"
    )
    assert under.startswith(f"{100 * row['ra']:.1f} %")


def test_an_attack_has_the_outcome_of_an_evaluation_and_its_image_stays_in_the_ball(
    page: DemoPage, finished: Path, tiny: dict[str, Any]
) -> None:
    test = load(DataConfig("digits")).test
    network = studies.load_model(tiny, storage=finished).at(0.0)
    outcomes = set()
    for index in range(20):
        told = ask(page, "attack", {**HERE, "index": index, "lam": 0, "steps": 7}).json
        one = Split(test.images[index : index + 1], test.labels[index : index + 1])
        judged = evaluate(network, one, Pgd(eps=0.1, steps=7))
        assert told["robust"] == bool(judged.robust)
        assert (told["prediction"] == int(one.labels)) == told["robust"]
        shown = pixels_of(told["image"]).float() / 255  # rounded to eight bits
        assert (shown - unit(one.images)[0]).abs().max() <= 0.1 + 0.5 / 255 + 1e-6
        outcomes.add(told["said"].split()[0])
    assert len(outcomes) > 1


def _bomb() -> bytes:
    """Make a small PNG that says it has ten thousand million pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + pixels + chunk(b"IEND", b"")


def _refused(answer: Answer, code: int) -> str:
    said: str = answer.json["error"]
    assert answer.code == code
    assert said.endswith(".")
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "'a.png' cannot be read as an image (it is empty)"),
        (b"no image", "'a.png' cannot be read as an image (it is none that Pillow knows)"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "'a.png' cannot be read as an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is none that Pillow knows"),
        (_bomb(), "'a.png' has more pixels than Pillow takes for safe"),
    ],
    ids=["empty", "text", "cut off", "PostScript", "bomb"],
)
def test_a_file_that_is_no_image_is_refused(data: bytes, said: str, page: DemoPage) -> None:
    assert said in _refused(ask(page, "image?name=a.png", data), 400)


def test_a_file_that_is_too_large_is_refused(page: DemoPage) -> None:
    said = _refused(ask(page, "image", bytes(20_000_001)), 413)
    assert said == "The file must have at most 20 MB."


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lam": 0.5}, "knows λ = 0, 1 only"),
        ({"lam": 2}, "`lam` must be in [0, 1], got 2."),
        ({"lam": None}, "needs a `lam`: it was trained at 0, 1."),
        ({"lam": "1"}, "`lam` must be a number, got '1'."),
        ({"lam": float("nan")}, "`lam` must be a number, got nan."),
        ({"lam": 10**400}, "`lam` must be a number"),
        ({"width": True}, "`width` must be a number, got True."),
        ({"width": 0.5}, "has the widths 1, got 0.5."),
        ({"index": -1}, "`index` must be a whole number from 0 to 448, got -1."),
        ({"index": 449}, "`index` must be a whole number from 0 to 448, got 449."),
        ({"index": 1.5}, "`index` must be a whole number from 0 to 448, got 1.5."),
        ({"index": None}, "`index` must be a whole number from 0 to 448, got nothing."),
        ({"steps": 0}, "`steps` must be a whole number from 1 to 200, got 0."),
        ({"steps": 201}, "`steps` must be a whole number from 1 to 200, got 201."),
        ({"steps": {"a\nb": 1}}, "`steps` must be a whole number from 1 to 200, got {"),
        ({"image": "http://elsewhere.test/a.png"}, "`image` must be a PNG as a data URL"),
        ({"image": "data:image/png;base64,####"}, "`image` must be a PNG as a data URL"),
        ({"image": "data:image/png;base64,aaaa"}, "cannot be read as an image"),
    ],
    ids=str,
)
def test_what_is_out_of_its_range_is_refused(
    change: dict[str, Any], said: str, page: DemoPage
) -> None:
    assert said in _refused(ask(page, "attack", {**HERE, **change}), 400)


def test_another_kind_of_request_is_refused(page: DemoPage) -> None:
    for body in (b"{", b"[1]", b"\xff"):
        assert "must be a JSON object" in _refused(ask(page, "look", body), 400)
    as_text = ask(page, "look", HERE, **{"Content-Type": "text/plain"})
    assert "must be a JSON object" in _refused(as_text, 400)
    assert _refused(ask(page, "look"), 405) == "This address is not asked in this way."
    assert _refused(ask(page, "demo.html"), 404) == "There is no such page here."
    assert "has no report yet" in _refused(ask(page, "report"), 404)


def test_the_page_answers_to_names_of_loopback_and_to_its_own_page_alone(page: DemoPage) -> None:
    port = page.address.split(":")[2].rstrip("/")
    for name in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost"):
        assert ask(page, "", Host=name).code == 200
    for name in (f"evil.test:{port}", "127.0.0.1.evil.test", "localhost@evil.test", ""):
        assert "answers to the names 127.0.0.1 and localhost alone" in _refused(
            ask(page, "", Host=name), 403
        )
    assert ask(page, "look", HERE, Origin=page.address.rstrip("/")).code == 200
    for site in ("http://evil.test", "null", "http://localhost:1"):
        assert "its own page alone" in _refused(ask(page, "look", HERE, Origin=site), 403)


def test_a_browser_may_load_nothing_from_elsewhere(page: DemoPage) -> None:
    for path in ("", "demo.css", "demo.js"):
        answer = ask(page, path)
        assert answer.code == 200
        assert not re.search(rb"https?://", answer.body)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; img-src 'self' data:; script-src 'self';")


def test_a_model_without_a_knob_has_no_slider_and_takes_no_lam(
    finished: Path, tiny: dict[str, Any]
) -> None:
    with studies.demo(tiny, "pgd_at", lam=1, storage=finished, port=0) as page:
        html = ask(page, "").body.decode()
        assert "it has no λ to move" in html
        assert 'id="lam"' not in html
        network = studies.load_model(tiny, "pgd_at", lam=1, storage=finished).at()
        told = ask(page, "look", {**HERE, "lam": None}).json
        with torch.no_grad():
            expected = network(unit(load(DataConfig("digits")).test.images[3:4]))[0].softmax(0)
        torch.testing.assert_close(torch.tensor(told["probabilities"]), expected)
        assert len(told["found"]) == 2
        assert "has no λ to set" in _refused(ask(page, "look", HERE), 400)
    with pytest.raises(OSError, match="refused"):
        ask(page, "")


def test_report_and_runs_are_linked_where_they_are(storage: Path, tiny: dict[str, Any]) -> None:
    folder = LocalFolder(storage / tiny["name"])
    points = studies.points(tiny, storage=storage)
    own = points[points["method"] == "oat"]
    trials = {key: "of-the-trial" for key in own["run_key"]}
    runs = {key: f"run-{lam:g}" for key, lam in zip(own["point_key"], own["lam"], strict=True)}
    write_index(folder, "http://mlflow.test", "7", "study", trials, runs)
    folder.write("report/index.html", b"<p>the report</p>")
    with studies.demo(tiny, storage=storage, port=0) as page:
        html = ask(page, "").body.decode()
        assert 'href="report"' in html
        assert ask(page, "report").body == b"<p>the report</p>"
        assert 'href="http://mlflow.test/#/experiments/7/runs/of-the-trial"' in html
        _, (_, _, address) = ask(page, "look", HERE).json["found"]
        assert address == "http://mlflow.test/#/experiments/7/runs/run-1"
    elsewhere = "http://127.0.0.1:5050"
    with studies.demo(tiny, storage=storage, tracking_uri=elsewhere, port=0) as page:
        html = ask(page, "").body.decode()
        assert f'href="{elsewhere}/#/experiments/7/runs/of-the-trial"' in html


def test_what_cannot_be_shown_is_refused_as_a_calibration_refuses_it(
    finished: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    def said(function: Any, **how: Any) -> str:
        with pytest.raises(ModelError) as refused, function(tiny, **how):
            pass
        return str(refused.value)

    for how in ({"storage": tmp_path}, {"storage": finished, "method": "mart"}):
        demo = said(studies.demo, port=0, **how)
        assert demo == said(studies.calibrate, **how)
        assert "is not trained" in demo or "has no model 'mart'" in demo


def test_a_port_that_is_taken_is_refused(finished: Path, tiny: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ModelError) as refused,
            studies.demo(tiny, storage=finished, port=port),
        ):
            pass
    assert str(refused.value) == (
        f"`--port` {port} on '127.0.0.1' cannot be had (Address already in use); choose another, "
        "or 0 for any that is free."
    )


def test_a_demo_ends_though_a_connection_says_nothing(finished: Path, tiny: dict[str, Any]) -> None:
    with studies.demo(tiny, storage=finished, port=0) as page:
        port = int(page.address.split(":")[2].rstrip("/"))
        with socket.create_connection(("127.0.0.1", port)):
            assert ask(page, "look", HERE).code == 200
            stop = threading.Event()
            stop.set()
            page.wait(stop)
