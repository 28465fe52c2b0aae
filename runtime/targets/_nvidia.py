"""What all NVIDIA GPUs have in common that TensorRT serves.

Two float flavours: fp32/opset 17, the reference, which TensorRT 8.6 builds in float16 on its own terms; and fp16/opset
20 for strongly typed TensorRT from 10.0 on, which takes every precision from the graph. INT8 is symmetric Q/DQ in
either of them, because TensorRT takes no other zero point than 0.

Source: an INT8 attention is one kernel for heads of 16, 32 or 64 over up to 512 tokens, and falls apart beyond:
https://github.com/NVIDIA/TensorRT/issues/4167 and #3714.
"""

from __future__ import annotations

from edgemim.runtime.targets._base import Target, Variant


def nvidia_target(
    name: str,
    summary: str,
    *,
    compute_capabilities: tuple[str, ...],
    machines: tuple[str, ...] = ("aarch64",),
    builds_on_device: bool = True,
    weakly_typed: bool = False,
) -> Target:
    """A target whose engines TensorRT builds; see `Target` for the arguments."""
    in_float16 = Variant(of="fp32", name="fp16-opset17", precision="fp16", backend="tensorrt")
    return Target(
        name=name,
        summary=summary,
        backends=("tensorrt",),
        flavours=("fp32", "fp16"),
        opsets={"fp32": 17, "fp16": 20, "int8": 20},
        activation_dtypes=("int8",),
        machines=machines,
        builds_on_device=builds_on_device,
        variants=(in_float16,) if weakly_typed else (),
        int8_head_dims=(16, 32, 64),
        int8_tokens=512,
        compute_capabilities=compute_capabilities,
        weakly_typed=weakly_typed,
        form="tensorrt",
    )
