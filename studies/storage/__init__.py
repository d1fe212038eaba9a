"""Folders of results on a path or behind a URI, and sealed records in them.

Knows nothing of trials or studies. Imports `studies.errors` alone, and `oat`.
"""
