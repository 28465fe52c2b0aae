"""NVIDIA Jetson Thor through TensorRT, engines built on the board.

JetPack 7.0 and 7.1 bring TensorRT 10.13, JetPack 7.2 brings 10.16: all of them are strongly typed.
"""

from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._nvidia import nvidia_target

JETSON_THOR = nvidia_target(
    "jetson-thor",
    "NVIDIA Jetson Thor through TensorRT",
    compute_capabilities=("11.0",),
)

TARGETS.add("jetson-thor", JETSON_THOR)
