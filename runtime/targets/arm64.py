"""64-bit Arm Linux boards without an accelerator (Raspberry Pi, i.MX, RK35xx), Arm servers, the CPU of a Jetson.

ONNX Runtime alone: OpenVINO on Arm computes INT8 models in floating point. One fp32/opset 17 flavour and its Q/DQ
variants, all activations int8: ONNX Runtime keeps int8 as it is there, where on x86 it is shifted to uint8 first, and
multiplies it without saturating on the way. It has no integer product of a uint8 and an int8 activation: with a uint8
softmax an INT8 attention would compute its second product in float.

Whether INT8 pays depends on the core: those with the dot product (Cortex-A55, A75, A76, A78 and newer; `asimddp`) gain,
and more so with `i8mm`; older ones (Cortex-A53, A72) may not. `check` finds out by measuring.

Source: MLAS (microsoft/onnxruntime, onnxruntime/core/mlas/lib/platform.cpp) for which kernel runs on which core
"""

from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._base import Target

ARM64 = Target(
    name="arm64",
    summary="64-bit Arm CPU through ONNX Runtime",
    backends=("onnxruntime",),
    flavours=("fp32",),
    opsets={"fp32": 17, "int8": 17},
    activation_dtypes=("int8",),
    machines=("aarch64", "arm64"),
    builds_on_device=False,
)

TARGETS.add("arm64", ARM64)
