"""Networks by name, and what they cost.

What is named here is loaded on first use: configs are read where nothing needs torch.
"""

from typing import TYPE_CHECKING

from oat.lazy import on_first_use

if TYPE_CHECKING:  # for type checkers and editors; a test holds it against the table
    from oat.models.building import build as build
    from oat.models.building import build_unfilled as build_unfilled
    from oat.models.config import Conditioning as Conditioning
    from oat.models.config import ModelConfig as ModelConfig
    from oat.models.costs import Cost as Cost
    from oat.models.costs import count_parameters as count_parameters
    from oat.models.costs import flops as flops
    from oat.models.costs import in_situ_cost as in_situ_cost
    from oat.models.costs import stored_bytes as stored_bytes
    from oat.models.forecast import forward_flops as forward_flops
    from oat.models.forecast import relative_flops as relative_flops
    from oat.models.network import Network as Network
    from oat.models.official import OfficialError as OfficialError
    from oat.models.official import load_official as load_official
    from oat.models.pairs import Interpolation as Interpolation
    from oat.models.pairs import Mixed as Mixed
    from oat.models.pairs import Mixture as Mixture
    from oat.models.pairs import Pair as Pair

HOMES = {
    "build": "building",
    "build_unfilled": "building",
    "Conditioning": "config",
    "ModelConfig": "config",
    "Cost": "costs",
    "count_parameters": "costs",
    "flops": "costs",
    "forward_flops": "forecast",
    "in_situ_cost": "costs",
    "relative_flops": "forecast",
    "stored_bytes": "costs",
    "Network": "network",
    "OfficialError": "official",
    "load_official": "official",
    "Interpolation": "pairs",
    "Mixed": "pairs",
    "Mixture": "pairs",
    "Pair": "pairs",
}
"""Module below this one in which a name lives."""

__all__ = list(HOMES)

__getattr__ = on_first_use(__name__, HOMES)
