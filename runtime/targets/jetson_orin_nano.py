"""NVIDIA Jetson Orin Nano through TensorRT, engines built on the board.

JetPack 6.0 brings TensorRT 8.6, which knows no strong typing; JetPack 6.1 and 6.2 bring 10.3, JetPack 7.2 brings 10.16.
"""

from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._nvidia import nvidia_target

JETSON_ORIN_NANO = nvidia_target(
    "jetson-orin-nano",
    "NVIDIA Jetson Orin Nano through TensorRT",
    compute_capabilities=("8.7",),
    weakly_typed=True,
)

TARGETS.add("jetson-orin-nano", JETSON_ORIN_NANO)
