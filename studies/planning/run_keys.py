"""What decides a trial's weights, and the run key that is made from it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, cast

from baselines import Checkpoint, Pairing
from oat.data import DataConfig
from oat.method import Method
from oat.models.config import ModelConfig
from oat.paths import local_path
from oat.recipe import TrainConfig
from studies.known_methods import EVALUATED_AT, RESULTS_VERSION
from studies.own_code import CODE, NETWORK, code_named, code_of
from studies.storage.sealed import digest
from studies.study_file.method_blocks import Entry
from studies.study_file.study import Study
from studies.trial.shapes import TrialConfig


def trial_config(
    study: Study, method: Method, seed: int, train: TrainConfig | None = None
) -> TrialConfig:
    """Return everything that decides the trained weights, as plain values."""
    data = asdict(study.data.resolved())
    for place in ("root", "download"):
        del data[place]
    return {
        "results_version": RESULTS_VERSION,
        "seed": seed,
        "data": data,
        "model": _network(study, method, asdict),
        "train": _lists(asdict(train or study.train)),
        "attack": asdict(study.attack),
        "method": {**_named(method), **_weighty(method, _lists(asdict(method))), **_place(method)},  # type: ignore[call-overload]
    }


def key_config(study: Study, method: Method, seed: int, train: TrainConfig) -> TrialConfig:
    """Return what a run key is made from: the trial's config without what is at its default.

    So an option that a later release adds changes no key, and no finished result is lost; a
    default that changes raises `RESULTS_VERSION`.
    """
    data = _changed(study.data.resolved())
    for place in ("root", "download"):
        data.pop(place, None)
    if study.data.name == "imagefolder":  # there, the place says which images they are
        data["root"] = absolute_root(study.data)
    key: Any = {
        "results_version": RESULTS_VERSION,
        "seed": seed,
        "data": data,
        "model": _network(study, method, _changed),
        "train": _changed(train),
        "attack": _changed(study.attack),
        "method": {**_named(method), **_weighty(method, _lists(_changed(method)))},
    }
    if isinstance(method, Checkpoint):  # neither how others are trained is its own, nor where it
        # lies and how it is called; the network stands in `model`
        for name in ("path", "title", "model"):
            key["method"].pop(name, None)
        del key["train"], key["attack"]
    return cast(TrialConfig, key)


def entry_config(study: Study, entry: Entry, seed: int) -> TrialConfig:
    """Return everything that decides the weights of an entry's trial, as plain values."""
    config = trial_config(study, entry.method, seed, entry.train)
    if entry.start is not None:
        (source,) = _sources(study, entry)
        config["start"] = {
            "source": source.label,
            "run_key": digest(entry_key(study, source, seed)),
            "epochs": entry.start.length,
        }
    return config


def entry_key(study: Study, entry: Entry, seed: int | None) -> Mapping[str, object]:
    """Return what the run key of an entry's trial is made from: what it starts from as well.

    Args:
        study: The study.
        entry: One of its entries.
        seed: Of the trial; None for what trials that differ by their seed alone share.
    """
    config = key_config(study, entry.method, 0, entry.train)
    sources = [digest(entry_key(study, source, seed)) for source in _sources(study, entry)]
    if isinstance(entry.method, Pairing):
        config["method"]["of"] = sources
    key = {**config, "seed": seed}
    if entry.start is None:
        return cast(TrialConfig, key)
    return {**key, "start": {"run_key": sources[0], "epochs": entry.start.length}}


def run_keys(study: Study) -> set[str]:
    """Return the run keys of all trials of a study."""
    return {digest(entry_key(study, entry, seed)) for seed, entry in study.trials()}


def sources_by_label(study: Study, entry: Entry, seed: int) -> dict[str, str]:
    """Return the run keys of the trials whose weights an entry's trial needs, by their labels."""
    return {
        source.label: digest(entry_key(study, source, seed)) for source in _sources(study, entry)
    }


def _sources(study: Study, entry: Entry) -> list[Entry]:
    """Return the entries whose weights the trials of an entry need."""
    by_label = {other.label: other for other in study.entries()} if entry.sources() else {}
    return [by_label[label] for label in entry.sources()]


def absolute_root(data: DataConfig) -> str:
    """Return where the data lie, also for a worker, which has a working folder of its own."""
    return str(local_path(data.root))


def _changed(config: Any) -> dict[str, Any]:
    """Return the fields of a config that differ from their default."""
    return {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if getattr(config, field.name) != field.default
    }


def _named(method: Method) -> dict[str, str]:
    """Return a method's name, and the digest of its code where that is the user's."""
    code = code_of(method)
    return {"name": method.name} if code is None else {"name": method.name, "code": code}


def _network(
    study: Study, method: Method, plain: Callable[[ModelConfig], dict[str, Any]]
) -> dict[str, Any]:
    """Return which network it is, of one of the user's with the digest of its code."""
    config = method.network() if isinstance(method, Checkpoint) else study.model
    code = code_named(config.name, NETWORK)
    return plain(config) if code is None else {**plain(config), CODE: code}


def _place(method: Method) -> dict[str, str]:
    """Return where a checkpoint lies, also for a worker, which has a working folder of its own."""
    if not isinstance(method, Checkpoint) or method.path is None:
        return {}
    return {"path": str(method.file())}


def _weighty(method: Method, values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what says where a model is evaluated and nothing else."""
    return {k: v for k, v in values.items() if k not in EVALUATED_AT.get(method.name, ())}


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
