"""One model, trained and evaluated, and what its folder holds.

Runs without Ray, MLflow, Optuna, pandas and pydantic, as a worker may have no more than torch.
Imports `oat`, `baselines`, `studies.known_methods` and `studies.storage`.
"""
