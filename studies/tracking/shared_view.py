"""How MLflow's own page shows a study: in its mode for trained models, at the points.

MLflow (3.17) reads both from tags of the experiment: its kind, and views that an address names.
"""

import json
from collections.abc import Mapping

KIND = "mlflow.experimentKind"
VIEW = "oat-points"
"""Name of the view, in the page's address."""
SHARED = "mlflow.sharedViewState."
"""Beginning of the tag that holds a view."""
COLUMNS = {
    "params": ("method", "lam", "beta", "width_mult", "seed", "attack", "checkpoint_rule"),
    "metrics": ("sa", "ra", "train_device_seconds"),
}
"""What stands beside each point's name: SA and RA are fractions."""


def view_tags() -> dict[str, str]:
    """Return the tags by which the page opens as a table of the points, highest RA first."""
    columns = [f"{kind}.`{name}`" for kind, names in COLUMNS.items() for name in names]
    view = {
        "searchFilter": "tags.`oat.kind` = 'point'",
        "orderByKey": "metrics.`ra`",
        "orderByAsc": False,
        "selectedColumns": columns,
    }
    return {KIND: "custom_model_development", SHARED + VIEW: json.dumps(view)}


def page_of(server: str, experiment: str, tags: Mapping[str, str]) -> str:
    """Return the address of an experiment's page, with our view where the experiment has it.

    Args:
        server: Address of MLflow, without a slash at its end.
        experiment: Id of the experiment.
        tags: Its tags.
    """
    # without `runs` MLflow 3 shows its overview of language models' traces, without the
    # workflow's type the menu of language models beside it
    view = f"&viewStateShareKey={VIEW}" if SHARED + VIEW in tags else ""
    return f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning{view}"
