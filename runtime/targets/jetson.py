"""NVIDIA Jetson boards (Orin family): TensorRT engines, built on the board itself.

Two float flavours: fp32/opset 17, which every TensorRT since 8.6 parses and which 8.6 builds in FP16 on its own terms,
and fp16/opset 20 for strongly typed TensorRT from 10.0 on, which takes every precision from the graph. INT8 is
symmetric Q/DQ in either of them, because TensorRT takes no other zero point than 0.
"""

from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._base import Target

JETSON = Target(
    name="jetson",
    summary="NVIDIA Jetson through TensorRT, engines built on the board",
    backends=("tensorrt",),
    flavours=("fp32", "fp16"),
    opsets={"fp32": 17, "fp16": 20, "int8": 20},
    activation_dtypes=("int8",),
    machines=("aarch64",),
    builds_on_device=True,
    int8_head_dims=(16, 32, 64),
    int8_tokens=512,
)

TARGETS.add("jetson", JETSON)
