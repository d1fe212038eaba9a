"""What the runs of a study hold in MLflow, written from its storage folder.

One run for each key: the study, each of its trials below it, each point below its trial. What a
run holds is read from storage, so syncing twice, or after any crash, changes nothing.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from studies.errors import TrackingError
from studies.planning.plan import Plan, PlannedTrial
from studies.results.mlflow_index import write_index
from studies.results.points import COLUMNS, TAGS, frame, with_attack_columns
from studies.results.reading import read_planned
from studies.storage.addresses import without_credentials
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError, digest
from studies.tracking.experiment import ATTACKS, Experiment, Run, refusals
from studies.tracking.reaching import knock
from studies.trial.records import read_epochs, read_result

log = logging.getLogger("oat.tracking")

KINDS = ("study", "trial", "point", "validation")
JUDGED = ("point", "validation")
"""Points on test images, and those on held-out images that tuning chooses by."""
PARENT = "mlflow.parentRunId"
EPOCH_METRICS = ("train_loss", "sa_val", "ra_val", "lr", "images_per_second")


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
        self._epochs: dict[str, int] = {}
        self._runs: dict[tuple[str, str], Run] = {}
        self._known_attacks: set[str] = set()

    def load(self) -> None:
        """Learn which runs there are; of several with one key all but the oldest are deleted.

        Raises:
            TrackingError: The server does not answer, or refuses.
        """
        with refusals(self.uri):
            self._load()

    def _load(self) -> None:
        self._runs.clear()
        for kind in KINDS:
            for run in self._search(f"tags.`oat.kind` = '{kind}'"):
                key = (kind, run.data.tags.get("oat.key", ""))
                if key in self._runs:
                    self.client.delete_run(run.info.run_id)
                else:
                    self._runs[key] = run

    def _create(
        self,
        kind: str,
        key: str,
        name: str,
        parent: str | None,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
    ) -> str:
        all_tags = {"oat.kind": kind, "oat.key": key, "oat.study": self.study, **(tags or {})}
        if parent is not None:
            all_tags[PARENT] = parent
        run = self.client.create_run(self.experiment_id, tags=all_tags, run_name=name)
        self._runs[(kind, key)] = run
        self._log_params(run, params)
        return str(run.info.run_id)

    def _put_under(self, run: Run, parent: str) -> None:
        """Move a run below another."""
        if run.data.tags.get(PARENT) != parent:
            self.client.set_tag(run.info.run_id, PARENT, parent)
            run.data.tags[PARENT] = parent

    def finish(self, plan: Plan, folder: Folder, table: pd.DataFrame) -> None:
        """Bring the experiment to what storage says and close the study's run.

        Args:
            plan: The plan of the study as storage has it now.
            folder: The study's folder.
            table: Its points.

        Raises:
            TrackingError: MLflow does not take it; storage is not touched.
        """
        self.catch_up(plan, folder)
        self.close(plan, folder, table)

    def catch_up(self, plan: Plan, folder: Folder) -> None:
        """Bring the experiment to what storage says; leave an index of its runs in the folder.

        Args:
            plan: The plan of the study as storage has it now.
            folder: The study's folder.

        Raises:
            TrackingError: MLflow does not take it; storage is not touched.
        """
        with self._refusals(folder):
            self.sync(plan, folder)
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
            self.finish_study(plan, table, artifacts)

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
        ids = {key: str(run.info.run_id) for key, run in self._runs.items()}
        write_index(
            folder,
            self.uri,
            self.experiment_id,
            study=ids["study", digest(plan.study.without_tuning())],
            trials={key: run for (kind, key), run in ids.items() if kind == "trial"},
            runs={key: run for (kind, key), run in ids.items() if kind == "point"},
        )

    def keep_tuning(self, folder: Folder, plan: Plan) -> None:
        """Bring the trials of a study's tuning to what storage says, and keep its record.

        Args:
            folder: Its folder.
            plan: The trials of its tuning, as `studies.tuning.record.tuning_plan` lists them.

        Raises:
            TrackingError: MLflow does not take it; storage is not touched.
        """
        self.catch_up(plan, folder)
        with self._refusals(folder), tempfile.TemporaryDirectory() as scratch:
            for name in ("tuning.json", "tuned.yaml"):
                with suppress(FileNotFoundError):  # a kill came between the record and the study
                    (Path(scratch) / name).write_bytes(folder.read(name))
            run_id = self.start_study(plan)
            self.client.log_artifacts(run_id, scratch, "tuning")
            self.client.set_terminated(run_id, "FINISHED")

    def start_study(self, plan: Plan) -> str:
        """Open the study's own run; a changed study has another. Returns its id."""
        resolved = plan.study.without_tuning()
        key = digest(resolved)
        run = self._runs.get(("study", key))
        if run is not None:
            if run.info.status != "RUNNING":
                self.client.update_run(run.info.run_id, status="RUNNING")
                run = self._runs[("study", key)] = self.client.get_run(run.info.run_id)
            self._log_params(run, _flat(resolved))
            return str(run.info.run_id)
        return self._create("study", key, self.study, None, _flat(resolved))

    def finish_study(self, plan: Plan, table: pd.DataFrame, artifacts: str | None = None) -> None:
        """Write the totals of the study's run and a folder of artifacts, and close it."""
        run_id = self.start_study(plan)
        spent = table.drop_duplicates("run_key")["train_device_seconds"].sum()
        totals = {
            "trials": len(plan.trials),
            "trials_done": sum(trial.state == "done" for trial in plan.trials),
            "points": len(table),
            "device_hours": float(spent) / 3600,
        }
        known = self.client.get_run(run_id).data.metrics
        changed = {k: v for k, v in totals.items() if known.get(k) != v}
        self._log(run_id, changed)
        if artifacts is not None:
            self.client.log_artifacts(run_id, artifacts, "report")
        whole = all(trial.state == "done" for trial in plan.trials)
        self.client.set_terminated(run_id, "FINISHED" if whole else "FAILED")

    def follow(self, plan: Plan, trial: PlannedTrial, folder: Folder) -> None:
        """Bring one trial to what its folder says, while the study runs.

        Raises:
            TrackingError: MLflow does not take it now; `finish` or `sync` will bring it later.
        """
        if (said := knock(self.uri)) is not None:
            raise TrackingError(f"The tracking server does not answer ({said}).")
        with refusals(self.uri):
            self.sync_trial(trial, folder, self.start_study(plan))

    def sync_trial(self, trial: PlannedTrial, folder: Folder, study_run: str) -> None:
        """Bring the runs of one trial and its points to what its folder says.

        Args:
            trial: The trial.
            folder: Its folder.
            study_run: Run to put it under.
        """
        epochs = read_epochs(folder)
        try:
            result = read_result(folder)
        except ResultError:
            result = None
        if not epochs and result is None and trial.state == "missing":
            return
        run_id = self._trial_run(trial, result, study_run)
        self._log_epochs(run_id, epochs)
        if result is not None and result["status"] == "done":
            self._finish_trial(run_id, trial, result["trained"], folder)
        elif result is not None:
            self.client.set_tag(run_id, "oat.diverged_epoch", str(result["epoch"]))
            self.client.set_terminated(run_id, "FAILED")
        elif folder.size("failure.json") is not None:
            self.client.set_terminated(run_id, "FAILED")

    def _trial_run(
        self, trial: PlannedTrial, result: Mapping[str, Any] | None, study_run: str
    ) -> str:
        """Find or open the run of a trial; one of an earlier training gives way."""
        training_id = result["trained"]["training_id"] if result and "trained" in result else None
        params = _flat(trial.job["config"])
        run = self._runs.get(("trial", trial.run_key))
        if run is not None:
            run_id = str(run.info.run_id)
            known = run.data.tags.get("oat.training_id")
            if not (training_id and known and training_id != known):
                self._put_under(run, study_run)
                self._log_params(run, params)
                return run_id
            self._delete_trial(trial.run_key, run_id)
        name = f"{trial.label} seed={trial.seed}"
        tags = {"oat.run_key": trial.run_key}
        return self._create("trial", trial.run_key, name, study_run, params, tags)

    def _delete_trial(self, run_key: str, run_id: str) -> None:
        for (kind, key), run in list(self._runs.items()):
            if kind in JUDGED and run.data.tags.get("oat.run_key") == run_key:
                self.client.delete_run(run.info.run_id)
                del self._runs[(kind, key)]
        self.client.delete_run(run_id)
        del self._runs[("trial", run_key)]
        self._epochs.pop(run_id, None)

    def _log_epochs(self, run_id: str, epochs: list[dict[str, Any]]) -> None:
        # a request that failed may have been taken: what is there is asked for again next time
        last = self._epochs.pop(run_id, None)
        if last is None:
            history = self.client.get_metric_history(run_id, "train_loss")
            last = max((m.step for m in history), default=0)
        metrics = [
            (name, record[name], record["epoch"])
            for record in epochs
            if record["epoch"] > last
            for name in EPOCH_METRICS
            if record[name] is not None
        ]
        self._log_metrics(run_id, metrics)
        self._epochs[run_id] = max([last, *(record["epoch"] for record in epochs[-1:])])

    def _finish_trial(
        self, run_id: str, trial: PlannedTrial, trained: Mapping[str, Any], folder: Folder
    ) -> None:
        run = self._runs[("trial", trial.run_key)]
        if run.data.tags.get("oat.training_id") != trained["training_id"]:
            finals = ("device_seconds", "train_units", "parameters", "network_bytes")
            self._log(run_id, {name: trained[name] for name in finals})
            self.client.set_tag(run_id, "oat.training_id", trained["training_id"])
            run.data.tags["oat.training_id"] = trained["training_id"]
        rows = read_planned(folder, trial.job)
        self._remember_attacks({row["attack"] for row in rows})
        wide = with_attack_columns(frame(rows)).set_index("point_key").drop(columns=[*COLUMNS][1:])
        for row in rows:
            self._sync_point(row, wide.loc[row["point_key"]].dropna().to_dict(), run_id)
        self.client.set_terminated(run_id, "FINISHED")

    def _remember_attacks(self, attacks: set[str]) -> None:
        if attacks - self._known_attacks:
            self._known_attacks = attacks.union(self._attacks())
            self.client.set_experiment_tag(
                self.experiment_id, ATTACKS, json.dumps(sorted(self._known_attacks))
            )

    def _sync_point(
        self, row: Mapping[str, Any], by_attack: Mapping[str, float], trial_run: str
    ) -> None:
        """Bring the run of a point to what its row says.

        Args:
            row: The point.
            by_attack: RA of its operating point under each attack, by `attack_column`.
            trial_run: Run to put it under.
        """
        kind = "validation" if "split" in row else "point"
        run = self._runs.get((kind, row["point_key"]))
        if run is not None:
            if run.info.status == "FINISHED":
                self._put_under(run, trial_run)
                self._log_params(run, {k: row[k] for k in row if k == "recipe"})  # a younger column
                self._update(run, {**_numbers(row), **by_attack}, row)
                return
            self.client.delete_run(run.info.run_id)  # a crash left it half written
        lam = row["lam"] if row["lam"] is not None else row["beta"]
        sign = "λ" if row["lam"] is not None else "β"
        texts = {k: row[k] for k in row if COLUMNS.get(k) == "str" and k not in TAGS}
        texts |= {k: row[k] for k in ("lam", "beta", "width_mult", "seed", "eps")}
        tags = {"oat.run_key": row["run_key"], "oat.point_key": row["point_key"]}
        tags |= {tag: row[name] for name, tag in TAGS.items()}
        name = f"{row['variant']} {sign}={lam:g} width={row['width_mult']:g} seed={row['seed']}"
        name += f" {row['checkpoint_rule']} {row['attack']}"
        run_id = self._create(kind, row["point_key"], name, trial_run, texts, tags)
        self._log(run_id, {**_numbers(row), **by_attack})
        self.client.set_terminated(run_id, "FINISHED")
        self._runs[(kind, row["point_key"])] = self.client.get_run(run_id)

    def _update(self, run: Run, numbers: Mapping[str, float], row: Mapping[str, Any]) -> None:
        """Bring a point's run to what is known by now: an attack may be new to the study."""
        run_id, known = run.info.run_id, run.data.metrics
        news = {name: value for name, value in numbers.items() if known.get(name) != value}
        self._log(run_id, news)
        known.update(news)
        for name, tag in TAGS.items():
            if run.data.tags.get(tag) != row[name]:
                self.client.set_tag(run_id, tag, row[name])
                run.data.tags[tag] = row[name]

    def sync(self, plan: Plan, folder: Folder) -> None:
        """Rebuild or repair the whole experiment from storage; close what was left open.

        Args:
            plan: The plan of the study as storage has it now.
            folder: The study's folder.
        """
        self._load()
        study_run = self.start_study(plan)
        for trial in plan.trials:
            self.sync_trial(trial, folder.sub(f"trials/{trial.run_key}"), study_run)
        for run in self._search("attributes.status = 'RUNNING'"):
            if run.info.run_id != study_run:
                self.client.set_terminated(run.info.run_id, "KILLED")
                log.info("closed the orphaned run %s", run.info.run_id)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a point; what is not known is left out."""
    return {
        name: float(value)
        for name, value in row.items()
        if COLUMNS.get(name) in {"float64", "int64"} and value is not None and value == value
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested plain values to dotted keys, lists as JSON."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list | tuple) else value
    return flat
