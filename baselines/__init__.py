"""What OAT is compared with: networks trained for one trade-off value each, and pairs of them."""

from baselines.mix import Mix
from baselines.pairing import Pairing
from baselines.pgd_at import PgdAt
from baselines.trades import Trades

__all__ = ["Mix", "Pairing", "PgdAt", "Trades"]
