"""The stage that runs on the device: compile a bundle's candidates there, measure them, say which one ships.

`check.py` is the way in and reads top to bottom; it takes a bundle (`bundle.py`) through the backends
(`backends/`) and writes a report (`report/`). Everything here imports, and passes its tests, with the base
install alone: no torch, no onnx, and a vendor package only inside the functions of its backend.
"""
