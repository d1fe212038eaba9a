"""What OAT is compared with: networks trained for one trade-off value each."""

from baselines.pgd_at import PgdAt
from baselines.trades import Trades

__all__ = ["PgdAt", "Trades"]
