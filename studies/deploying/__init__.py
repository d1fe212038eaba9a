"""Trained models in use: loaded, shown at work, chosen under a constraint, exported, served.

Imports `trial`, `planning`, `tracking`, `driver` and the rooms below them.
"""
