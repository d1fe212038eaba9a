"""Make a pair of two trained models: in the place of a training, for methods that train nothing."""

from oat.data import Dataset
from oat.recipe import RULES
from studies.storage.folder import Folder
from studies.storage.sealed import digest
from studies.trial.prices import price_behind
from studies.trial.shapes import TrialJob
from studies.trial.sources import SourceModel, read_all_behind, read_sources
from studies.trial.stored import Trained, Weights
from studies.trial.weights import about, write_weights


def join(job: TrialJob, dataset: Dataset, folder: Folder) -> Trained:
    """Write the weights of two models into one file for each checkpoint rule that both have.

    The training id follows from those of the two, so that joining them again changes nothing.

    Args:
        job: See `studies.trial.run.run_trial`.
        dataset: Its data.
        folder: The trial's folder.

    Raises:
        SourceError: One of the models cannot be had.
        DataError: One was trained on other data.
    """
    sources = read_sources(job, dataset)
    ids = {source.run_key: source.training_id for source in sources}
    rules = [rule for rule in RULES if all(rule in s.trained["weights"] for s in sources)]
    trained: Trained = {
        "training_id": digest({"run_key": job["run_key"], "sources": ids}),
        "weights": {rule: _join(job, dataset, sources, rule, folder) for rule in rules},
        "device_seconds": 0.0,
        "train_units": 0.0,
        "parameters": sum(source.trained["parameters"] for source in sources),
        "network_bytes": sum(source.trained["network_bytes"] for source in sources),
        "sources": ids,
        "behind": price_behind(read_all_behind(job, sources), len(dataset.train)),
    }
    known = [s.trained["execution"] for s in sources if "execution" in s.trained]
    if len(known) == len(sources) and len({one["precision"] for one in known}) == 1:
        trained["execution"] = known[0]
    return trained


def _join(
    job: TrialJob, dataset: Dataset, sources: list[SourceModel], rule: str, folder: Folder
) -> Weights:
    state = {
        f"ends.{i}.{name}": value
        for i, source in enumerate(sources)
        for name, value in source.weights(rule).items()
    }
    last = max(source.trained["weights"][rule]["epoch"] for source in sources)
    return write_weights(folder, rule, last, about(job, dataset), state)
