"""The runs of trials and points in MLflow, written from the folders of the trials.

One run for each trial below that of its study, each point below its trial. What a run holds is
read from storage, so writing it twice, or after any crash, changes nothing.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from studies.known_methods import RIVALS
from studies.planning.plan import PlannedTrial
from studies.results.points import COLUMNS, TAGS, frame, with_attack_columns
from studies.results.reading import PlannedPointRow, Which, read_planned, stored_keys
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError
from studies.tracking.experiment import ATTACKS, Experiment, Run
from studies.tracking.logged_models import delete_models_of
from studies.tracking.run_values import differs, flat, numbers_of, says_otherwise
from studies.trial.records import read_epochs, read_result
from studies.trial.stored import Epoch, Trained, TrialResult

KINDS = ("study", "trial", "point", "validation")
JUDGED = ("point", "validation")
"""Points on test images, and those on held-out images that tuning and comparisons choose by."""
PARENT = "mlflow.parentRunId"
EpochMetric = Literal["train_loss", "sa_val", "ra_val", "lr", "images_per_second"]
EPOCH_METRICS: tuple[EpochMetric, ...] = (
    "train_loss",
    "sa_val",
    "ra_val",
    "lr",
    "images_per_second",
)


class TrialRuns:
    """Every run of a study's experiment, by kind and key, and what is written into them.

    Args:
        experiment: The study's experiment.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self.runs: dict[tuple[str, str], Run] = {}
        self._epochs: dict[str, int] = {}
        self._known_attacks: set[str] = set()
        self._stored: set[str] = set()
        """Keys of points that were read from storage since all runs were learned."""

    def load(self) -> None:
        """Learn which runs there are; of several with one key all but the oldest are deleted."""
        self.runs.clear()
        self._stored.clear()
        for kind in KINDS:
            for run in self._experiment.search(f"tags.`oat.kind` = '{kind}'"):
                key = (kind, run.data.tags.get("oat.key", ""))
                if key in self.runs:
                    self._experiment.client.delete_run(run.info.run_id)
                else:
                    self.runs[key] = run

    def create(
        self,
        kind: str,
        key: str,
        name: str,
        parent: str | None,
        params: Mapping[str, object],
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Open a run, known by its kind and key from now on; return its id."""
        all_tags = {
            "oat.kind": kind,
            "oat.key": key,
            "oat.study": self._experiment.study,
            **(tags or {}),
        }
        if parent is not None:
            all_tags[PARENT] = parent
        run = self._experiment.client.create_run(
            self._experiment.experiment_id, tags=all_tags, run_name=name
        )
        self.runs[(kind, key)] = run
        self._experiment.log_params(run, params)
        return str(run.info.run_id)

    def put_under(self, run: Run, parent: str) -> None:
        """Move a run below another."""
        if run.data.tags.get(PARENT) != parent:
            self._experiment.client.set_tag(run.info.run_id, PARENT, parent)
            run.data.tags[PARENT] = parent

    def sync(self, trial: PlannedTrial, folder: Folder, study_run: str) -> None:
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
        if not epochs and result is None and trial.state in {"missing", "waiting"}:
            if ("trial", trial.run_key) in self.runs:  # its folder was removed
                self._delete_trial(trial.run_key)
            return
        run_id = self._trial_run(trial, result, study_run)
        if not self._log_epochs(run_id, epochs):
            self._delete_trial(trial.run_key)
            return self.sync(trial, folder, study_run)
        if result is not None and result["status"] == "done":
            self._finish_trial(run_id, trial, result["trained"], folder)
        elif result is not None:
            self._experiment.client.set_tag(run_id, "oat.diverged_epoch", str(result["epoch"]))
            self._experiment.client.set_terminated(run_id, "FAILED")
        elif folder.size("failure.json") is not None:
            self._experiment.client.set_terminated(run_id, "FAILED")

    def _trial_run(self, trial: PlannedTrial, result: TrialResult | None, study_run: str) -> str:
        """Find or open the run of a trial; one of an earlier training gives way."""
        training_id = (
            result["trained"]["training_id"] if result and result["status"] == "done" else None
        )
        params = flat(trial.job["config"])
        run = self.runs.get(("trial", trial.run_key))
        if run is not None:
            run_id = str(run.info.run_id)
            known = run.data.tags.get("oat.training_id")
            if not (training_id and known and training_id != known):
                self.put_under(run, study_run)
                self._experiment.log_params(run, params)
                return run_id
            self._delete_trial(trial.run_key)
        name = f"{trial.label} seed={trial.seed}"
        tags = {"oat.run_key": trial.run_key}
        return self.create("trial", trial.run_key, name, study_run, params, tags)

    def _delete_trial(self, run_key: str) -> None:
        run = self.runs["trial", run_key]
        delete_models_of(self._experiment, str(run.info.run_id))
        for key in self._points_by_trial().get(run_key, []):
            self._delete(key)
        run_id = self._delete(("trial", run_key))
        self._epochs.pop(run_id, None)

    def _delete(self, key: tuple[str, str]) -> str:
        run_id = str(self.runs.pop(key).info.run_id)
        self._experiment.client.delete_run(run_id)
        return run_id

    def _points_by_trial(self) -> dict[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {}
        for (kind, key), run in self.runs.items():
            if kind in JUDGED:
                found.setdefault(run.data.tags.get("oat.run_key", ""), []).append((kind, key))
        return found

    def remove_lost(self, trials: Iterable[PlannedTrial], folder: Folder) -> None:
        """Delete the runs of points that storage does not have any more: it is the truth.

        Args:
            trials: Trials whose runs are up to date otherwise.
            folder: Folder of all trials.
        """
        known = self._points_by_trial()
        for trial in trials:
            lost = [k for k in known.get(trial.run_key, []) if k[1] not in self._stored]
            # points of other settings of the same trial are in storage as well
            there = stored_keys(folder.sub(trial.run_key)) if lost else set()
            for key in lost:
                if key[1] not in there:
                    self._delete(key)

    def _log_epochs(self, run_id: str, epochs: list[Epoch]) -> bool:
        """Log the epochs that the run lacks; False if it has those of a training that was lost."""
        # a request that failed may have been taken: what is there is asked for again next time
        last = self._epochs.pop(run_id, None)
        if last is None or (epochs and epochs[-1]["epoch"] < last):
            history = self._experiment.client.get_metric_history(run_id, "train_loss")
            known = {m.step: m.value for m in history}
            if any(differs(known.get(e["epoch"]), e["train_loss"]) for e in epochs):
                return False
            last = max(known, default=0)
        metrics = [
            (name, value, record["epoch"])
            for record in epochs
            if record["epoch"] > last
            for name in EPOCH_METRICS
            if (value := record[name]) is not None
        ]
        self._experiment.log_metrics(run_id, metrics)
        self._epochs[run_id] = max([last, *(record["epoch"] for record in epochs[-1:])])
        return True

    def _finish_trial(
        self, run_id: str, trial: PlannedTrial, trained: Trained, folder: Folder
    ) -> None:
        run = self.runs[("trial", trial.run_key)]
        if run.data.tags.get("oat.training_id") != trained["training_id"]:
            finals = {
                "device_seconds": trained["device_seconds"],
                "train_units": trained["train_units"],
                "parameters": trained["parameters"],
                "network_bytes": trained["network_bytes"],
            }
            self._experiment.log(run_id, finals)
            self._experiment.client.set_tag(run_id, "oat.training_id", trained["training_id"])
            run.data.tags["oat.training_id"] = trained["training_id"]
        for which in get_args(Which):
            rows = read_planned(folder, trial.job, which)
            self._remember_attacks({row["attack"] for row in rows})
            wide = with_attack_columns(frame(rows)).set_index("point_key")
            wide = wide.drop(columns=[*COLUMNS][1:])
            for row in rows:
                self._stored.add(row["point_key"])
                self._sync_point(row, wide.loc[row["point_key"]].dropna().to_dict(), run_id)
        self._experiment.client.set_terminated(run_id, "FINISHED")

    def _remember_attacks(self, attacks: set[str]) -> None:
        if attacks - self._known_attacks:
            self._known_attacks = attacks.union(self._experiment.attacks())
            self._experiment.client.set_experiment_tag(
                self._experiment.experiment_id, ATTACKS, json.dumps(sorted(self._known_attacks))
            )

    def _sync_point(
        self, row: PlannedPointRow, by_attack: Mapping[str, float], trial_run: str
    ) -> None:
        """Bring the run of a point to what its row says.

        Args:
            row: The point.
            by_attack: RA of its operating point under each attack, by `attack_column`.
            trial_run: Run to put it under.
        """
        kind = "validation" if "split" in row else "point"
        columns: Mapping[str, Any] = row
        texts = {k: v for k, v in columns.items() if COLUMNS.get(k) == "str" and k not in TAGS}
        texts |= {k: columns[k] for k in ("lam", "beta", "width_mult", "seed", "eps")}
        numbers = {**numbers_of(row), **by_attack}
        run = self.runs.get((kind, row["point_key"]))
        if run is not None:
            if run.info.status == "FINISHED" and not says_otherwise(run, texts, numbers):
                self.put_under(run, trial_run)
                self._experiment.log_params(run, texts)
                self._update(run, numbers, row)
                return
            # a crash left it half written, or what MLflow cannot change is another by now
            self._experiment.client.delete_run(run.info.run_id)
        lam = row["lam"] if row["lam"] is not None else row["beta"]
        sign = "α" if row["method"] in RIVALS else "λ" if row["lam"] is not None else "β"
        tags = {"oat.run_key": row["run_key"], "oat.point_key": row["point_key"]}
        tags |= {tag: columns[name] for name, tag in TAGS.items()}
        value = "" if lam is None else f" {sign}={lam:g}"
        name = f"{row['variant']}{value} width={row['width_mult']:g} seed={row['seed']}"
        name += f" {row['checkpoint_rule']} {row['attack']}"
        run_id = self.create(kind, row["point_key"], name, trial_run, texts, tags)
        self._experiment.log(run_id, numbers)
        self._experiment.client.set_terminated(run_id, "FINISHED")
        self.runs[(kind, row["point_key"])] = self._experiment.client.get_run(run_id)

    def _update(self, run: Run, numbers: Mapping[str, float], row: Mapping[str, Any]) -> None:
        """Bring a point's run to what is known by now: an attack may be new to the study."""
        run_id, known = run.info.run_id, run.data.metrics
        news = {name: value for name, value in numbers.items() if known.get(name) != value}
        self._experiment.log(run_id, news)
        known.update(news)
        for name, tag in TAGS.items():
            if run.data.tags.get(tag) != row[name]:
                self._experiment.client.set_tag(run_id, tag, row[name])
                run.data.tags[tag] = row[name]
