"""What a trial takes on its device, measured there: `oat plan --probe` and `resources.gpu: auto`.

Imports driver, cluster and planning.
"""
