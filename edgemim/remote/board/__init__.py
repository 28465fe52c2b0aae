"""What runs on the board during a check that another machine asked for.

It arrives over ssh as source (`edgemim/remote/bootstrap.py`) and is not stored there, so it needs Python's own library
alone, and its files import each other only. `agent.py` is the way in.
"""
