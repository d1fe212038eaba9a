"""Fronts and intervals, on arrays of numbers.

Imports numpy and scipy alone.
"""
