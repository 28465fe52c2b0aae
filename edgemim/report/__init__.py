"""A report as one web page that needs nothing else: `edgemim report DIR` (extra `report`).

The page is a rendering of `report.json` and `samples.npz`, so it is no part of the artifact
and can be made anew at any time.
"""
