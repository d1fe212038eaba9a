"""Settings of a study that change nothing, so that nobody takes them for the cause of a number."""

from collections.abc import Iterator

from oat.data import DataConfig
from oat.recipe import TrainConfig
from studies.known_methods import CONDITIONAL
from studies.study_file.study import Study


def without_effect(study: Study) -> list[str]:
    """Return a sentence for each setting that is not at its default and changes nothing."""
    return [*_of_training(study), *_of_data(study.data), *_of_evaluation(study)]


def _of_training(study: Study) -> Iterator[str]:
    schedules = sorted({entry.train.schedule for entry in study.entries()})
    if "multistep" in schedules:
        return
    for key in ("milestones", "gamma"):
        if getattr(study.train, key) != getattr(TrainConfig, key):
            yield (
                f"`train.{key}` changes nothing: only `schedule: multistep` reads it, and the "
                f"schedule is {' and '.join(schedules)}."
            )


def _of_data(data: DataConfig) -> Iterator[str]:
    if data.name == "digits":
        for key in ("root", "download"):
            if getattr(data, key) != getattr(DataConfig, key):
                yield f"`data.{key}` changes nothing: the images of digits come with scikit-learn."


def _of_evaluation(study: Study) -> Iterator[str]:
    if study.evaluate.lams is not None and not set(CONDITIONAL) & set(study.method_names()):
        yield (
            "`evaluate.lams` changes nothing: it is for OAT and OATS, which this study does not "
            "have."
        )
