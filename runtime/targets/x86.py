"""x86-64 CPUs: mini PCs, industrial PCs, laptops and servers.

One fp32/opset 17 flavour and its Q/DQ variants serve OpenVINO and ONNX Runtime alike. INT8 pays on CPUs with
VNNI or AMX and gains little or loses without them, which `check` finds out by measuring.

bf16 needs no file of its own: OpenVINO computes the same graph in it when asked, around the Q/DQ of an INT8
one too.
"""

from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._base import Target, Variant

_BF16 = {"INFERENCE_PRECISION_HINT": "bf16"}

X86 = Target(
    name="x86",
    summary="x86-64 CPU through OpenVINO or ONNX Runtime",
    backends=("openvino", "onnxruntime"),
    flavours=("fp32",),
    opsets={"fp32": 17, "int8": 17},
    activation_dtypes=("int8", "uint8"),
    machines=("x86_64", "AMD64"),
    builds_on_device=False,
    variants=(
        Variant(of="fp32", name="bf16", precision="bf16", backend="openvino", options=_BF16, needs="bf16"),
        Variant(of="int8", name="{flavour}-bf16", precision="int8", backend="openvino", options=_BF16, needs="bf16"),
    ),
)

TARGETS.add("x86", X86)
