"""The demo's page in Debian's chromium: each control shows what the server tells."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import studies
from studies.deploying.demo_server import DemoPage
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from tests.oat.data.files import noise
from tests.studies.conftest import TrainAll
from tests.studies.deploying.asking import ask

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]
MODEL = "{name: oats, lambda_choices: [0, 0.2, 1], width_mults: [0.5, 1], encoding: continuous}"
LOOKED_UP = "{name: oat, lambda_choices: [0, 0.2, 1]}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def storage_of_both(
    tiny_file: Path, train_all: TrainAll, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    """A study with a model that knows any λ and one that knows three, and its storage."""
    storage: Path = tmp_path_factory.mktemp("both")
    study = load_study(tiny_file, [f"methods=[{MODEL}, {LOOKED_UP}]"])
    train_all(study, storage)
    LocalFolder(storage / study.name).write("report/index.html", b"<h1>the report</h1>")
    return study, storage


class Tab:
    """A tab with a demo; at the end nothing was complained of, and all was asked of the demo."""

    def __init__(self, browser: Any, page: DemoPage, **how: Any) -> None:
        self.page, self.complaints, self.requests = page, [], []
        self.context = browser.new_context(viewport={"width": 600, "height": 900}, **how)
        self.tab = self.context.new_page()
        self.tab.on("console", lambda said: self.complaints.append(said.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda asked: self.requests.append(asked.url))
        self.tab.goto(page.address)
        self.settled()

    def settled(self) -> None:
        """Wait until nothing is asked for any more."""
        self.tab.locator("body[data-busy=no]").wait_for(timeout=1_000_000)

    def slide(self, name: str, key: str) -> None:
        self.tab.get_by_label(name).press(key)
        self.settled()

    def type(self, name: str, text: str) -> None:
        self.tab.get_by_label(name).fill(text)
        self.tab.get_by_label(name).press("Tab")
        self.settled()

    def shows(self, **wanted: Any) -> None:
        """Check that what stands there is what the server tells of these."""
        look = ask(self.page, "look", wanted).json
        attack = ask(self.page, "attack", wanted).json
        told = self.tab.locator("#said").inner_text().split("\n")
        assert [line for line in told if line] == [look["said"], attack["said"]]
        for name, address in (
            ("the image", look["image"]),
            ("the attacked image", attack["image"]),
            ("what the attack changed", attack["change"]),
        ):
            shown = self.tab.get_by_alt_text(name, exact=True)
            assert shown.get_attribute("src") == address
            assert shown.evaluate("image => image.naturalWidth") == 8
        rows = self.tab.locator("#bars tbody tr").all()
        shares = zip(rows, look["probabilities"], attack["probabilities"], strict=True)
        for row, before, after in shares:
            texts = row.locator("td").all_inner_texts()
            assert texts == [f"{100 * before:.1f} %", f"{100 * after:.1f} %"]
        found = self.tab.locator("#found").inner_text()
        assert all(text in found for _, text, _ in look["found"])
        assert ("did not judge" in found) == (not look["found"])

    def ends(self, refusals: int = 0) -> None:
        """Close it; a refusal is the one thing that a browser may complain of."""
        self.context.close()
        assert len(self.complaints) == refusals
        assert all("400" in said for said in self.complaints)
        own = (self.page.address, "data:")
        assert [url for url in self.requests if not url.startswith(own)] == []


def test_each_control_shows_what_the_server_tells(
    browser: Any, storage_of_both: tuple[Any, Path], tmp_path: Path
) -> None:
    study, storage = storage_of_both
    with studies.demo(study, "oats", storage=storage, port=0) as page:
        shown = Tab(browser, page)
        here = {"index": 0, "lam": 0.2, "width": 1, "steps": 1}
        shown.shows(**here)
        shown.slide("Trade-off", "ArrowRight")
        assert shown.tab.locator("#lam-value").inner_text() == "λ = 0.21"
        shown.shows(**{**here, "lam": 0.21})
        shown.type("Any λ from 0 to 1", "0.123456")
        shown.shows(**{**here, "lam": 0.123456})
        shown.slide("Trade-off", "End")
        shown.slide("Width", "Home")
        here |= {"lam": 1, "width": 0.5}
        shown.shows(**here)
        shown.type("Steps of the attack", "9")
        shown.tab.get_by_label("previous test image").click()
        shown.settled()
        here |= {"steps": 9, "index": 448}
        shown.shows(**here)

        shown.type("Test image, 0 to 448", "449")
        fault = shown.tab.get_by_role("alert")
        assert fault.inner_text() == "`index` must be a whole number from 0 to 448, got 449."
        shown.type("Any λ from 0 to 1", "1.5")
        shown.type("Test image, 0 to 448", "7")
        assert fault.inner_text() == "`lam` must be in [0, 1], got 1.5."
        shown.type("Any λ from 0 to 1", "1")
        assert not fault.is_visible()
        here |= {"index": 7}
        shown.shows(**here)

        photo = tmp_path / "photo.png"
        photo.write_text("no image")
        shown.tab.get_by_label("Or an image of your own").set_input_files(photo)
        fault.wait_for()
        assert "'photo.png' cannot be read as an image" in fault.inner_text()
        assert not shown.tab.locator("#read").is_visible()
        shown.shows(**here)
        shown.ends(refusals=4)


def test_an_image_of_ones_own_is_chosen_or_dropped(
    browser: Any, storage_of_both: tuple[Any, Path], tmp_path: Path
) -> None:
    study, storage = storage_of_both
    photo = tmp_path / "photo.png"
    Image.fromarray(noise(2, 40, 30, 3)).save(photo)
    with studies.demo(study, "oat", storage=storage, port=0) as page:
        own = ask(page, "image", photo.read_bytes()).json["image"]
        shown = Tab(browser, page, color_scheme="dark")
        assert shown.tab.locator("#lam-exact").count() == 0
        assert shown.tab.get_by_label("Width").count() == 0
        lams = {True: 0, False: 0.2}
        for dropped, lam in lams.items():
            if dropped:
                shown.slide("Trade-off", "Home")
                _drop(shown.tab, photo)
            else:
                shown.slide("Trade-off", "ArrowRight")
                shown.tab.get_by_label("Or an image of your own").set_input_files(photo)
            shown.tab.get_by_text("photo.png, resized to the model's images.").wait_for()
            shown.settled()
            shown.shows(image=own, lam=lam, width=1, steps=1)
            assert not shown.tab.locator("#true-label").is_visible()
            shown.tab.get_by_label("next test image").click()
            shown.settled()
            assert not shown.tab.locator("#read").is_visible()
        shown.shows(index=2, lam=0.2, width=1, steps=1)
        fits = "() => document.documentElement.scrollWidth <= window.innerWidth"
        assert shown.tab.locator("body").evaluate(fits)
        if "OAT_SCREENSHOT" in os.environ:
            shown.tab.screenshot(path=os.environ["OAT_SCREENSHOT"], full_page=True)
        with shown.context.expect_page() as opened:
            shown.tab.get_by_text("The study's report").click()
        assert opened.value.get_by_role("heading").inner_text() == "the report"
        shown.ends()


def _drop(tab: Any, photo: Path) -> None:
    """Drop a file on the page as a browser does."""
    dropped = tab.evaluate_handle(
        """([bytes, name]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
          return data;
        }""",
        [list(photo.read_bytes()), photo.name],
    )
    tab.dispatch_event("body", "drop", {"dataTransfer": dropped})
