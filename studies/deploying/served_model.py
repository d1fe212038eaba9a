"""What MLflow runs to serve a model: it needs torch, NumPy and MLflow, and nothing of ours.

MLflow copies this file beside the model, so that it imports nothing from here.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

SAME = 1e-6
"""λ or widths closer than that are the same."""


class Served(PythonModel):  # type: ignore[misc]
    """A model at the operating point that each request names."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the networks, one for each width, and what they know."""
        folder = Path(context.artifacts["model"])
        self.record: dict[str, Any] = json.loads((folder / "record.json").read_text())
        self.networks = {
            float(width): torch.export.load(str(folder / name)).module()
            for width, name in self.record["files"].items()
        }

    # without types, as MLflow would take them for the schema of a request
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Classify images.

        Args:
            context: Not used.
            model_input: Images in [0, 1], shape (N, C, H, W).
            params: ``lam`` and ``width_mult``, where the model has them.

        Returns:
            Logits, shape (N, K).

        Raises:
            MlflowException: Images, λ or width do not fit the model; an answer of 400.
        """
        params = params or {}
        images = torch.from_numpy(np.asarray(model_input, dtype=np.float32))
        shape = tuple(self.record["image_shape"])
        if images.ndim != 4 or tuple(images.shape[1:]) != shape or not len(images):
            raise _refused(f"images must have the shape (N, {shape}), got {tuple(images.shape)}")
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise _refused("images must be in [0, 1]; divide bytes by 255")
        width = params.get("width_mult")
        width = max(self.networks) if width is None else width
        network = self.networks[self._known("width_mult", width)]
        lam = params.get("lam")
        lam = self.record["default_lam"] if lam is None else lam
        with torch.no_grad():
            if self.record["lams"]:
                return network(images, torch.full((len(images),), self._lam(lam))).numpy()
            if lam is not None:
                raise _refused(f"lam must be left out, as the model has no such input; got {lam:g}")
            return network(images).numpy()

    def _lam(self, lam: float) -> float:
        if not self.record["any_lam"]:
            return self._known("lam", lam)
        if not 0 <= lam <= 1:
            raise _refused(f"lam must be in [0, 1], got {lam:g}")
        trained: dict[str, bool] = self.record["trained"]
        if not trained["0" if lam < SAME else "above 0"]:
            known = ", ".join(f"{one:g}" for one in self.record["lams"])
            raise _refused(
                f"the batch norms of lam {'0' if lam < SAME else 'above 0'} were never trained, as "
                f"the model was trained at {known}; got {lam:g}"
            )
        return float(lam)

    def _known(self, name: str, value: float) -> float:
        known = {"lam": self.record["lams"], "width_mult": list(self.networks)}[name]
        for one in known:
            if abs(one - value) < SAME:
                return float(one)
        said = ", ".join(f"{one:g}" for one in known)
        raise _refused(f"{name} must be one of {said}, got {value:g}")


def _refused(said: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(f"{said}.")


set_model(Served())
