"""What `studies.deploying.model_logger` runs beside a study: it logs models, one after the other.

The first line of standard input says of which study, in JSON; each further line is the run key of
a trial that is trained. To each it replies by a line: null once the model is in MLflow, else
``{"fault": sentence}`` where it cannot be exported, ``{"refused": sentence}`` where MLflow or
storage is away.
"""

import json
import os
import sys
from typing import Any

import torch

from studies.deploying.logged import fault_of, log_model
from studies.errors import ModelError, StudyError, UserError
from studies.planning.expand import make_plan
from studies.storage.opening import open_folder
from studies.study_file.loading import load_study
from studies.tracking.experiment import Experiment

LOWEST = 19


class ModelProcess:
    """Logs the models of one study.

    Args:
        asked: The ``study``, the URI of its ``folder``, and the ``tracking`` URI.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        self._folder = open_folder(asked["folder"])
        self._plan = make_plan(load_study(asked["study"]), self._folder)
        self._trials = {trial.run_key: trial for trial in self._plan.trials}
        self._experiment = Experiment(asked["tracking"], self._plan.study.name)

    def answer(self, run_key: str) -> dict[str, str] | None:
        """Log the model of a trial; return what is wrong where that fails."""
        trial = self._trials[run_key]
        try:
            runs = self._experiment.trial_runs(run_key)
            if not runs:
                return {"refused": f"MLflow has no run of {run_key}"}
            log_model(self._plan, trial, self._folder, self._experiment, runs[0])
        except (ModelError, StudyError) as error:
            return {"fault": fault_of(trial, error)}
        except (UserError, OSError) as error:
            return {"refused": str(error)}
        return None


def main() -> None:
    """Answer run keys until there are no more."""
    # what else is printed must not come between the replies
    replies, sys.stdout = sys.stdout, sys.stderr
    os.nice(LOWEST)  # trainings come first
    torch.set_num_threads(1)
    process = ModelProcess(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        replies.write(json.dumps(process.answer(line.strip())) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
