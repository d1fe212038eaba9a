"""A trained model at work on images, as a page: `studies.demo`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from studies.commands.deploy import choosing_attack
from studies.deploying.judged import points_of
from studies.deploying.loading import Wanted, data_of, open_trained
from studies.driver.places import study_folder
from studies.planning.expand import make_plan
from studies.results.mlflow_index import INDEX, MlflowIndex, links_of, read_object
from studies.results.reading import study_points
from studies.storage.addresses import DEFAULT_STORAGE
from studies.study_file.loading import Source, load_study

if TYPE_CHECKING:
    from studies.deploying.demo_server import DemoPage


@contextmanager
def demo(
    study: Source,
    method: str | None = None,
    *,
    lam: float | None = None,
    beta: float | None = None,
    width_mult: float | None = None,
    seed: int | None = None,
    checkpoint: str | None = None,
    port: int = 5050,
    storage: str | Path = DEFAULT_STORAGE,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
) -> Iterator["DemoPage"]:
    """Serve a page, on loopback and for as long as the block lasts, on which a model is tried.

    It shows what the model says of a test image or of one's own at any λ and width, and what PGD
    makes of that image there.

    Args:
        study: The study.
        method: See `load_model`, as are ``lam``, ``beta``, ``width_mult``, ``seed`` and
            ``checkpoint``.
        lam: λ of a dedicated model.
        beta: β of a dedicated model.
        width_mult: Share of the channels of a dedicated model.
        seed: Of the training.
        checkpoint: Which weights.
        port: To listen on; 0 for any that is free.
        storage: Folder or URI of all studies' results.
        tracking_uri: MLflow's address in links, where it is no more that of the study's run.
        overrides: ``path.to.key=value`` each.

    Yields:
        The page, with its address; ``page.wait()`` waits for Ctrl-C.

    Raises:
        ModelError: There is no such model, it is not trained, or the port is taken.
        StudyError: The study is faulty, or its data cannot be read.
    """
    from studies.deploying.demo_page import demo_app
    from studies.deploying.demo_server import listening, serving
    from studies.deploying.demonstrating import Demo

    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    plan = make_plan(resolved, folder)
    wanted = Wanted(method, lam, beta, width_mult, seed, checkpoint)
    with listening(port) as listener:
        model, trial = open_trained(plan, folder, wanted, torch.device("cpu"))
        index = cast(MlflowIndex | None, read_object(folder, INDEX))
        if index is not None and tracking_uri is not None:
            index = {**index, "uri": tracking_uri}
        shown = Demo(
            study=resolved.name,
            model=model,
            seed=trial.seed,
            test=data_of(trial, folder).test,
            attack=choosing_attack(resolved),
            points=points_of(study_points(plan, folder), trial, model),
            run_key=trial.run_key,
            links=links_of(index),
        )
        app = demo_app(shown, folder.sub("report"))
        with serving(app, listener, shown.end) as page:
            yield page
