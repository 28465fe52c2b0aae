"""NVIDIA RTX GPUs in PCs through TensorRT-RTX: one engine for three generations, built at export.

TensorRT-RTX builds without a GPU; the GPU's own machine finishes the engine when it is loaded for the first time. One
file holds code for Ampere (8.6), Ada (8.9) and Blackwell (12.0); for Turing it has no float32 products. The ONNX files
travel with it: another release of TensorRT-RTX builds its own engine from them.

Source: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html
"""

from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._nvidia import nvidia_target

RTX = nvidia_target(
    "rtx",
    "NVIDIA RTX GPU in a PC through TensorRT-RTX",
    compute_capabilities=("8.6", "8.9", "12.0"),
    machines=("x86_64", "AMD64"),
    builds_on_device=False,
)

TARGETS.add("rtx", RTX)
