"""MLflow: written from storage, asked, and served.

MLflow reads its environment when it is first imported, so it is set here, before the one module
of this room that imports it. Imports results and below; knows nothing of Ray.
"""

import os

# MLflow's messages about its own migrations are not for our users; its warnings are
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# standard output is for results
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# bars of files of a few kilobytes, in the middle of what is told
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
