"""NVIDIA Jetson boards (Orin family): TensorRT engines, built on the board itself.

The flavours are fp32/opset 17, which every TensorRT since 8.6 parses, and INT8 as symmetric Q/DQ, because
TensorRT takes no other zero point than 0.
"""

from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._base import Target

JETSON = Target(
    name="jetson",
    summary="NVIDIA Jetson through TensorRT, engines built on the board",
    backends=("tensorrt",),
    opset=17,
    precisions=("fp32", "int8"),
    activation_dtypes=("int8",),
    machines=("aarch64",),
    builds_on_device=True,
)

TARGETS.add("jetson", JETSON)
