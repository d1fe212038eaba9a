"""What surrounds a run: where things are, who may drive, what must hold, who follows.

Imports cluster and tracking and below.
"""
