"""x86-64 CPUs: mini PCs, industrial PCs, laptops and servers.

One fp32/opset 17 flavour and its Q/DQ variants serve OpenVINO and ONNX Runtime alike. INT8 pays on CPUs with
VNNI or AMX and is slower than fp32 without them, which `check` finds out by measuring.
"""

from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._base import Target

X86 = Target(
    name="x86",
    summary="x86-64 CPU through OpenVINO or ONNX Runtime",
    backends=("openvino", "onnxruntime"),
    opset=17,
    precisions=("fp32", "int8"),
    activation_dtypes=("int8", "uint8"),
    machines=("x86_64", "AMD64"),
    builds_on_device=False,
)

TARGETS.add("x86", X86)
