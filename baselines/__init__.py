"""What OAT is compared with: networks for one trade-off value each, pairs of them, outsiders."""

from baselines.checkpoint import Checkpoint
from baselines.interpolate import Interpolate
from baselines.mix import Mix
from baselines.pairing import Pairing
from baselines.pgd_at import PgdAt
from baselines.trades import Trades
from baselines.untrained import Untrained

__all__ = ["Checkpoint", "Interpolate", "Mix", "Pairing", "PgdAt", "Trades", "Untrained"]
