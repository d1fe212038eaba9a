"""The YAML file that says what to run: its keys, its checks, its faults as sentences, its schema.

Reads no data and no results. Imports `oat`, `baselines` and the ground floor.
"""
