"""One network for every trade-off beside one retrained for each: the answer with its intervals.

Pure functions of points. Imports results and statistics.
"""
