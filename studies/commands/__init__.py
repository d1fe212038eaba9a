"""What a user may ask for: a function for each command of `oat`, which prints nothing of its own.

Imports every room but `studies.cli`.
"""
