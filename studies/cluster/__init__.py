"""Ray: launches, workers, retries, jobs, and what is seen of them.

Ray reads its environment when it is first imported, so it is set here, before any module of this
room can import it. Imports trials and plans; knows nothing of MLflow and of comparisons.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tune's handler would swallow Ctrl-C; its loggers would write what the storage folder has
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# a search algorithm would want its metrics in every report; ours reads them from storage
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # `how_lost` says it in a word
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints a banner at verbose=0
# under `uv run` it would pack the working folder for every worker, and refuse one of 512 MiB
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# workers for plain tasks, one for each CPU; a trial's has another environment, so none is ever used
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
