"""Trained models in use: loaded, chosen under a constraint, exported, served.

Imports `trial`, `planning`, `tracking`, `driver` and the rooms below them.
"""
