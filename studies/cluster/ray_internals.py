"""What is used of Ray's insides, for want of a public form; tried with Ray 2.60.0.

A test opens each of these doors, so that a new version of Ray that has moved one says so in a
sentence. Tune's handling of evicted workers is patched in `studies.cluster.evictions`.
"""

from collections.abc import Mapping
from typing import Any

import ray
from ray import JobID

TRIED_WITH = "2.60.0"


def token_is_enabled() -> bool:
    """Tell whether Ray asks for the cluster's token on this node."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


def temporary_folder() -> str:
    """Return the folder of Ray's sockets and logs: below RAY_TMPDIR, else TMPDIR, else /tmp."""
    from ray._common.utils import get_default_ray_temp_dir

    return str(get_default_ray_temp_dir())


def startable_nodes() -> list[dict[str, float]]:
    """Return what the nodes can hold that an autoscaler may add; an idle cluster has none yet."""
    config = ray._private.state.state.get_cluster_config() if ray.is_initialized() else None
    groups = config.node_group_configs if config is not None else ()
    return [dict(group.resources) for group in groups if group.max_count]


def actors_being_made(job_id: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the actors of a job that wait for room or are being made, by their ids."""
    found: Mapping[str, Mapping[str, Any]] = ray._private.state.state.actor_table(
        None, job_id=JobID.from_hex(job_id), actor_state_name="PENDING_CREATION"
    )
    return found
