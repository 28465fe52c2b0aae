"""Checks on boards that are reached over ssh: `edgemim check BUNDLE --device ssh://user@board`.

`check.py` is the way in. One connection of the user's own `ssh` (`connection.py`) carries everything: the files of
`board/` are sent over it as source, take what the board lacks of the bundle and of the wheels (`parcel.py`), run
`python3 -m edgemim.runtime` there and hand the report back. Nothing is installed on the board, and nothing goes on
running there once the connection is gone.
"""
