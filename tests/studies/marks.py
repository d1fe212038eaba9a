"""Marks that tests of several rooms carry."""

import pytest

NOLOAD = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)
"""MLflow 3.17's own tables, under SQLAlchemy 2.1."""
