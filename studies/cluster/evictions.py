"""Workers that Ray itself has ended for want of memory: lost like others, and Tune goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError


@contextmanager
def evictions_survived() -> Iterator[None]:
    """Let Tune take every error by which Ray ends a worker for the loss of that worker.

    Ray's memory monitor ends workers with an `OutOfMemoryError`, which is no `RayActorError`. Tune
    (ray 2.60.0, ``RayActorManager._actor_task_failed``) knows only the latter and raises anything
    else from ``fit``, so that one worker too many would end the whole study.
    """
    tunes = RayActorManager._actor_task_failed

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        known = isinstance(exception, RayActorError | RayTaskError)
        if isinstance(exception, RayError) and not known:
            exception = RayActorError(error_msg=str(exception))
        tunes(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = tunes
