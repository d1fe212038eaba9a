"""What OAT is compared with: networks trained for one trade-off value each, and pairs of them."""

from baselines.interpolate import Interpolate
from baselines.mix import Mix
from baselines.pairing import Pairing
from baselines.pgd_at import PgdAt
from baselines.trades import Trades

__all__ = ["Interpolate", "Mix", "Pairing", "PgdAt", "Trades"]
