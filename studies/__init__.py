"""Studies: once-for-all models next to models retrained for each trade-off value.

The functions below are the Python form of the `oat` command. They are loaded on first use, so
that `studies.trial` also runs where only torch and numpy are installed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.api import (
        compare,
        job,
        load_study,
        logs,
        plan,
        points,
        preflight,
        run,
        runs,
        schema,
        status,
        submit,
        sync,
        template,
        tune,
        ui,
    )

__all__ = [
    "compare",
    "job",
    "load_study",
    "logs",
    "plan",
    "points",
    "preflight",
    "run",
    "runs",
    "schema",
    "status",
    "submit",
    "sync",
    "template",
    "tune",
    "ui",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from studies import api

        return getattr(api, name)
    raise AttributeError(f"module 'studies' has no attribute {name!r}")
