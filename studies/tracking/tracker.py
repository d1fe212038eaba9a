"""A study's experiment in MLflow, brought to what its storage folder says.

Four calls do all: `Tracker.load` learns which runs there are, `Tracker.follow` brings one trial
while the study runs, `Tracker.sync` brings everything, `Tracker.close` ends the study's run. Each
may be repeated, also after a crash.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

from studies.errors import TrackingError
from studies.known_methods import RIVALS
from studies.planning.plan import Plan, PlannedTrial
from studies.results.mlflow_index import write_index
from studies.storage.addresses import without_credentials
from studies.storage.folder import Folder
from studies.storage.sealed import digest
from studies.study_file.method_blocks import FileBlock
from studies.tracking.experiment import Experiment, refusals
from studies.tracking.reaching import knock
from studies.tracking.run_values import flat
from studies.tracking.shared_view import view_tags
from studies.tracking.trial_runs import TrialRuns

log = logging.getLogger("oat.tracking")


class Tracker(Experiment):
    """One study's experiment in MLflow.

    Args:
        uri: Tracking URI.
        study: Name of the study, which is that of the experiment.
        artifacts: Where a new experiment keeps its artifacts; None leaves it to the server.

    Raises:
        TrackingError: The server refuses.
    """

    def __init__(self, uri: str, study: str, artifacts: str | None = None) -> None:
        super().__init__(uri, study, artifacts)
        self._trials = TrialRuns(self)
        with refusals(uri):
            known = self.client.get_experiment(self.experiment_id).tags
            for tag, value in view_tags().items():
                if known.get(tag) != value:
                    self.client.set_experiment_tag(self.experiment_id, tag, value)

    def load(self) -> None:
        """Learn which runs there are; of several with one key all but the oldest are deleted.

        Raises:
            TrackingError: The server does not answer, or refuses.
        """
        with refusals(self.uri):
            self._trials.load()

    def follow(self, plan: Plan, trial: PlannedTrial, folder: Folder) -> None:
        """Bring one trial to what its folder says, while the study runs.

        Raises:
            TrackingError: MLflow does not take it now; `sync` will bring it later.
        """
        if (said := knock(self.uri)) is not None:
            raise TrackingError(f"The tracking server does not answer ({said}).")
        with refusals(self.uri):
            self._trials.sync(trial, folder, self._start_study(plan))

    def sync(self, plan: Plan, folder: Folder) -> None:
        """Bring the experiment to what storage says; leave an index of its runs in the folder.

        Runs that nobody works on are closed, and those of what storage does not have deleted.

        Args:
            plan: The plan of the study as storage has it now.
            folder: The study's folder.

        Raises:
            TrackingError: MLflow does not take it; storage is not touched.
        """
        with self._refusals(folder):
            self._trials.load()
            study_run = self._start_study(plan)
            for trial in plan.trials:
                self._trials.sync(trial, folder.sub(f"trials/{trial.run_key}"), study_run)
            self._trials.remove_lost(plan.trials, folder.sub("trials"))
            for run in self.search("attributes.status = 'RUNNING'"):
                if run.info.run_id != study_run:
                    self.client.set_terminated(run.info.run_id, "KILLED")
                    log.info("closed the orphaned run %s", run.info.run_id)
        self._write_index(plan, folder)

    def close(
        self, plan: Plan, folder: Folder, table: pd.DataFrame, artifacts: str | None = None
    ) -> None:
        """Write the totals of the study's run, keep files with it, and close it.

        Args:
            plan: The plan of the study as storage has it now.
            folder: The study's folder.
            table: Its points.
            artifacts: Local folder of files to keep.

        Raises:
            TrackingError: MLflow does not take it; storage is not touched.
        """
        with self._refusals(folder):
            run_id = self._start_study(plan)
            own = table[~table["method"].isin(RIVALS)]  # whose price is that of the models behind
            spent = own.drop_duplicates("run_key")["train_device_seconds"].sum()
            totals = {
                "trials": len(plan.trials),
                "trials_done": sum(trial.state == "done" for trial in plan.trials),
                "points": len(table),
                "device_hours": float(spent) / 3600,
            }
            known = self.client.get_run(run_id).data.metrics
            self.log(run_id, {k: v for k, v in totals.items() if known.get(k) != v})
            if artifacts is not None:
                self.client.log_artifacts(run_id, artifacts, "report")
            whole = all(trial.state == "done" for trial in plan.trials)
            self.client.set_terminated(run_id, "FINISHED" if whole else "FAILED")

    def keep_tuning(self, folder: Folder, plan: Plan) -> None:
        """Bring the trials of a study's tuning to what storage says, and keep its record.

        Args:
            folder: Its folder.
            plan: The trials of its tuning, as `studies.tuning.record.tuning_plan` lists them.

        Raises:
            TrackingError: MLflow does not take it; storage is not touched.
        """
        self.sync(plan, folder)
        with self._refusals(folder), tempfile.TemporaryDirectory() as scratch:
            for name in ("tuning.json", "tuned.yaml"):
                with suppress(FileNotFoundError):  # a kill came between the record and the study
                    (Path(scratch) / name).write_bytes(folder.read(name))
            run_id = self._start_study(plan)
            self.client.log_artifacts(run_id, scratch, "tuning")
            self.client.set_terminated(run_id, "FINISHED")

    @contextmanager
    def _refusals(self, folder: Folder) -> Iterator[None]:
        """Say of what MLflow does not take that it is not lost; a dead server costs seconds."""
        try:
            if (said := knock(self.uri)) is not None:
                raise TrackingError(f"it does not answer: {said}")
            with refusals(self.uri):
                yield
        except TrackingError as error:
            uri, said = without_credentials(self.uri), str(error).rstrip(".")
            raise TrackingError(
                f"MLflow at {uri} did not take all results ({said}); they are safe in "
                f"'{folder.uri}', and `oat sync {self.study}` brings them there."
            ) from error

    def _write_index(self, plan: Plan, folder: Folder) -> None:
        ids = {key: str(run.info.run_id) for key, run in self._trials.runs.items()}
        write_index(
            folder,
            self.uri,
            self.experiment_id,
            study=ids["study", _key_of(plan.study.without_tuning())],
            trials={key: run for (kind, key), run in ids.items() if kind == "trial"},
            runs={key: run for (kind, key), run in ids.items() if kind == "point"},
        )

    def _start_study(self, plan: Plan) -> str:
        """Open the study's own run; a changed study has another. Returns its id."""
        resolved = plan.study.without_tuning()
        key = _key_of(resolved)
        run = self._trials.runs.get(("study", key))
        if run is not None:
            if run.info.status != "RUNNING":
                self.client.update_run(run.info.run_id, status="RUNNING")
                run = self._trials.runs[("study", key)] = self.client.get_run(run.info.run_id)
            self.log_params(run, flat(resolved))
            return str(run.info.run_id)
        return self._trials.create("study", key, self.study, None, flat(resolved))


def _key_of(resolved: FileBlock) -> str:
    """Return the key of a study's run: what MLflow keeps besides makes it no other."""
    return digest({key: value for key, value in resolved.items() if key != "tracking"})
