"""Power: what a run of a model costs in energy, read from the board's own sensors.

No counter, no number: where nothing can be read the result says why, and no 0 stands in for it.
"""
