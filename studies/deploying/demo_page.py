"""The demo as a web application: the page, and what its script asks for.

Whatever is asked for and cannot be had is answered by 4xx and one sentence.
"""

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, jsonify, render_template, request, send_from_directory
from jinja2 import StrictUndefined
from torch import Tensor
from werkzeug.exceptions import HTTPException
from werkzeug.sansio.utils import host_is_trusted

from oat.data import DataError, unit
from oat.operating import OperatingPoint
from studies.deploying.demonstrating import MOST_STEPS, Attacked, Demo
from studies.deploying.own_images import bytes_of, own_image, png_of
from studies.errors import ModelError
from studies.known_methods import RIVALS
from studies.naming import one_line
from studies.storage.folder import Folder

MOST_BYTES = 20_000_000
"""Bytes of a request, at most: a photo has fewer."""
LOOPBACK = ("127.0.0.1", "localhost")
"""Names by which a browser reaches the page; another may be one that leads here by DNS."""
LARGEST = 1e9
"""Numbers beyond it are none that anyone means."""
TEMPLATES = Path(__file__).with_name("templates")
SENTENCES = {
    HTTPStatus.NOT_FOUND: "There is no such page here.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address is not asked in this way.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"The file must have at most {MOST_BYTES // 10**6} MB.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The demo has failed; its terminal says why.",
}
"""What is said where nothing more is known of a request that is refused."""
OWN_FILES = (
    "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
IN_ONE_FILE = (
    "default-src 'none'; img-src data: blob:; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Where a page may load from: the demo its own files, the report itself alone."""


def demo_app(demo: Demo, report: Folder) -> Flask:
    """Make the application.

    Args:
        demo: What is shown.
        report: Folder of the study's report; it may be empty.
    """
    app = Flask("studies.deploying", template_folder=str(TEMPLATES), static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    app.jinja_env.undefined = StrictUndefined
    app.before_request(_only_from_here)
    app.after_request(_with_limits)
    for kind in (HTTPException, ModelError, DataError):
        app.register_error_handler(kind, _refusal)

    @app.get("/")
    def page() -> str:
        return render_template(
            "demo.html",
            demo=demo,
            page=page_facts(demo),
            report=_has_report(report),
            run=demo.links.trials.get(demo.run_key),
        )

    @app.get("/demo.<any(css, js):kind>")
    def own_file(kind: str) -> Response:
        return send_from_directory(TEMPLATES, f"demo.{kind}")

    @app.get("/report")
    def shown_report() -> Response:
        if not _has_report(report):
            abort(404, "The study has no report yet; `oat run` writes it.")
        answer = Response(report.read("index.html"), mimetype="text/html")
        answer.headers["Content-Security-Policy"] = IN_ONE_FILE
        return answer

    @app.post("/image")
    def image() -> Response:
        with demo.turn():
            name = request.args.get("name", "")
            found, done = own_image(request.get_data(), name, demo.model.image_shape)
        return jsonify(image=png_of(found), done=list(done))

    @app.post("/look")
    def look() -> Response:
        with demo.turn():
            return jsonify(look_at(demo, _asked()))

    @app.post("/attack")
    def attack() -> Response:
        with demo.turn():
            return jsonify(attack_at(demo, _asked()))

    return app


def _has_report(report: Folder) -> bool:
    return report.size("index.html") is not None


def _only_from_here() -> None:
    """Refuse who asks by a name that is none of loopback's, and pages of other sites."""
    if not host_is_trusted(request.headers.get("Host"), LOOPBACK):
        abort(403, f"The demo answers to the names {' and '.join(LOOPBACK)} alone.")
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{request.headers['Host']}":
        abort(403, "The demo answers to its own page alone.")


def _with_limits(answer: Response) -> Response:
    """Let a browser load nothing from elsewhere, keep nothing, and show the page in no other."""
    answer.headers.setdefault("Content-Security-Policy", OWN_FILES)
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _refusal(error: Exception) -> tuple[Response, int]:
    """Answer by a status and one sentence."""
    code, said = 400, str(error)
    if isinstance(error, HTTPException):
        code = error.code or 500
        known = error.description if error.description != type(error).description else None
        said = known or SENTENCES.get(HTTPStatus(code), HTTPStatus(code).phrase)
    return jsonify(error=one_line(said)), code


def _asked() -> Mapping[str, Any]:
    """Return what a request asks for.

    Raises:
        ModelError: It is no object of JSON.
    """
    found = request.get_json(silent=True)
    if not isinstance(found, dict):
        raise ModelError("A request must be a JSON object of the type application/json.")
    return found


def page_facts(demo: Demo) -> dict[str, Any]:
    """Return what the page's script must know: images, trade-offs, widths, steps, classes."""
    model = demo.model
    return {
        "images": len(demo.test),
        "lams": model.lams,
        "known": ", ".join(f"{lam:g}" for lam in model.lams),
        "anyLam": model.any_lam,
        "sign": "α" if model.about["config"]["method"]["name"] in RIVALS else "λ",
        "widths": sorted(model.widths),
        "steps": demo.attack.steps,
        "mostSteps": MOST_STEPS,
        "mostBytes": MOST_BYTES,
        "classes": model.classes,
    }


def look_at(demo: Demo, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Answer what the model says of an image, and what the study found at that point.

    Raises:
        ModelError: What is asked for is not there.
        DataError: The image cannot be read.
    """
    point = point_of(demo, asked)
    image, label = image_of(demo, asked)
    probabilities = demo.look(image, point)
    best = int(probabilities.argmax())
    classes = demo.model.classes
    said = f"The model says {_answer(demo, probabilities)}"
    if label is not None:
        said += ", which is right" if best == label else f"; it is {classes[label]}"
    return {
        "image": png_of(image),
        "label": label,
        "prediction": best,
        "probabilities": probabilities.tolist(),
        "said": f"{said}.",
        "found": demo.found(point),
    }


def attack_at(demo: Demo, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Answer what the attack makes of an image: of its true class, or else of what is said of it.

    Raises:
        ModelError: What is asked for is not there.
        DataError: The image cannot be read.
    """
    point = point_of(demo, asked)
    steps = _whole(asked, "steps", 1, MOST_STEPS)
    image, label = image_of(demo, asked)
    if label is None:
        label = int(demo.look(image, point).argmax())
    result = demo.attacked(image, label, point, steps)
    change = (result.image - unit(image)) / (2 * demo.attack.radius())
    return {
        "image": png_of(result.image),
        "change": png_of((0.5 + change).clamp(0, 1)),
        "prediction": int(result.probabilities.argmax()),
        "probabilities": result.probabilities.tolist(),
        "robust": result.robust,
        "said": _outcome(demo, result, steps),
    }


def _outcome(demo: Demo, result: Attacked, steps: int) -> str:
    """Say in a sentence what came of an attack."""
    attack = f"{demo.with_steps(steps).label} at ε = {demo.radius()}"
    name = _answer(demo, result.probabilities)
    if result.robust:
        return f"It withstands {attack}: after the last step the model still says {name}."
    if result.broken_after is None:
        return "As it is wrong without an attack, it counts as not robust, and no attack is run."
    first = {0: "at the random start", 1: "after 1 step"}
    when = first.get(result.broken_after, f"after {result.broken_after} steps")
    return f"Under {attack} it says {name}; the first wrong answer comes {when}."


def _answer(demo: Demo, probabilities: Tensor) -> str:
    """Name the most probable class, and its probability in percent."""
    best = int(probabilities.argmax())
    return f"{demo.model.classes[best]} ({100 * probabilities[best]:.1f} %)"


def image_of(demo: Demo, asked: Mapping[str, Any]) -> tuple[Tensor, int | None]:
    """Return the image that is asked for, and its true class where that is known.

    Raises:
        ModelError: There is none.
        DataError: It cannot be read.
    """
    if "image" in asked:
        data = bytes_of(str(asked["image"]))
        return own_image(data, "image", demo.model.image_shape)[0], None
    index = _whole(asked, "index", 0, len(demo.test) - 1)
    return demo.test.images[index], int(demo.test.labels[index])


def point_of(demo: Demo, asked: Mapping[str, Any]) -> OperatingPoint:
    """Return the operating point that is asked for.

    Raises:
        ModelError: It is none of the model's.
    """
    lam, width = asked.get("lam"), asked.get("width", max(demo.model.widths))
    point = OperatingPoint(None if lam is None else _number("lam", lam), _number("width", width))
    demo.model.check(*point)
    return point


def _number(name: str, value: object) -> float:
    # JSON has integers of any length, and Python's reader takes NaN and Infinity
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return float(value)
    raise ModelError(f"`{name}` must be a number, got {_shown(value)}.")


def _whole(asked: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = asked.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ModelError(
            f"`{name}` must be a whole number from {low} to {high}, got {_shown(value)}."
        )
    return value


def _shown(value: object) -> str:
    """Write what a request has sent, the beginning of it where it is long."""
    return "nothing" if value is None else f"{value!r:.40}"
