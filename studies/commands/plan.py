"""`studies.plan`: what a study would train, before anything starts. It needs no pandas."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from studies.console import plain_console
from studies.driver.places import study_folder
from studies.errors import StudyError
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.storage.addresses import DEFAULT_STORAGE
from studies.study_file.loading import Source, load_study


def plan(
    study: Source,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Sequence[str] = (),
    probe: bool = False,
    address: str | None = None,
    console: Console | None = None,
) -> Plan:
    """Expand a study into its trials, look up what is done, and estimate what each takes.

    Starts nothing, and writes nothing unless it probes: then it writes ``probe.json`` into the
    study's folder, from which later plans estimate as well.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        storage: Folder or URI of all studies' results.
        overrides: ``path.to.key=value`` each.
        probe: Whether to time some steps, a validation and judging of each kind of trial that is
            to run, on the device that it asks for.
        address: Ray cluster to probe on; None is this machine.
        console: Where the progress of a probe goes; None is standard error.

    Raises:
        StudyError: The study is faulty, or cannot be probed here.
        StorageError: The storage cannot be opened.
    """
    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    current = make_plan(resolved, folder)
    if not probe:
        if address is not None:
            raise StudyError("`--address` says where to probe; add `--probe`, or leave it out.")
        return current
    from studies.measuring.probing import probe as probe_kinds

    return probe_kinds(current, folder, address, console or plain_console(stderr=True))
