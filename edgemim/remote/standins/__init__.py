"""What the runtime uses of filelock and platformdirs, and no more, for a board on which neither copy of these works.

The packages of this machine may need a newer Python than the board has, and the board may have none of its own. Each
file travels under the name of the package that it stands in for (`edgemim/remote/wheel.py`).
"""
