"""From a study to its trials: run keys, operating points, costs, and what is already done.

Reads storage and starts nothing. Imports the study file, trials' records and storage.
"""
