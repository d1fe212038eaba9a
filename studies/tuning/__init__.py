"""What is tried of each method, who wins, and what it gained.

Imports planning, results, cluster and comparison; Optuna is imported here alone. This room imports
Ray, whose environment `studies.cluster` sets, so that page comes first.
"""

import studies.cluster  # noqa: F401 -- sets the environment of Ray
