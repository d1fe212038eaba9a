"""The points of a study as a data frame, and what can be said of each point alone.

Imports planning and below.
"""
