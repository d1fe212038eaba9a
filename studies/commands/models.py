"""Trained models in Python: `studies.load_model`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from studies.deploying.loading import Wanted, open_file, open_trained
from studies.driver.places import study_folder
from studies.errors import ModelError
from studies.planning.expand import make_plan
from studies.storage.addresses import DEFAULT_STORAGE
from studies.study_file.loading import Source, load_study

if TYPE_CHECKING:
    from studies.deploying.model import TrainedModel


def load_model(
    study: Source,
    method: str | None = None,
    *,
    lam: float | None = None,
    beta: float | None = None,
    width_mult: float | None = None,
    seed: int | None = None,
    checkpoint: str | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Sequence[str] = (),
    device: str = "cpu",
) -> "TrainedModel":
    """Load a trained model of a study, or of a weights file.

    ``load_model("quickstart").at(lam=0.3)`` is a plain `torch.nn.Module` in eval mode: images in
    [0, 1] in, logits out.

    Args:
        study: The study. Or the path of a ``.safetensors`` file, which says itself what it is of;
            then nothing else but the device is asked for.
        method: Label of a model as `oat plan` prints it, or the name of its method; None is the
            method with λ as an input.
        lam: λ of a dedicated model. That of a once-for-all model is given to `at`.
        beta: β of a dedicated model.
        width_mult: Share of the channels of a dedicated model.
        seed: Of the training; None is the first of the study.
        checkpoint: Which weights; None is the first rule of the study.
        storage: Folder or URI of all studies' results.
        overrides: ``path.to.key=value`` each.
        device: Where its weights go, such as ``cuda``.

    Raises:
        ModelError: There is no such model, it is not trained, or the file is none of ours.
        StudyError: The study is faulty.
    """
    place = _device(device)
    wanted = Wanted(method, lam, beta, width_mult, seed, checkpoint)
    if isinstance(study, str | Path) and Path(study).suffix == ".safetensors":
        if wanted != Wanted() or overrides:
            raise ModelError(
                "A weights file is one model by itself; leave `method`, `lam`, `beta`, "
                "`width_mult`, `seed`, `checkpoint` and `overrides` out."
            )
        return open_file(Path(study), place)
    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    model, _ = open_trained(make_plan(resolved, folder), folder, wanted, place)
    return model


def _device(name: str) -> torch.device:
    """Return a device that is there.

    Raises:
        ModelError: It is none, or not there.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0].partition(". ")[0].rstrip(".")
        raise ModelError(f"`device` '{name}' cannot be used ({said}).") from error
    return device
