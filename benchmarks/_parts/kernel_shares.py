"""Where the time of a step goes, by kind of kernel."""

from __future__ import annotations

import re
from collections import defaultdict

from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .trainee import Trainee

# The first that fits decides: names of torch's operations on a CPU, of kernels on a GPU.
_KINDS = {
    "attention, backward": re.compile(r"(scaled_dot_product|attention|fmha|flash).*(backward|bwd)|bwd.*flash"),
    "attention, forward": re.compile(r"scaled_dot_product|attention|fmha|flash|softmax"),
    "optimiser": re.compile(r"adam|optimizer|_foreach_|multi_tensor"),
    "fused by the compiler": re.compile(r"cpp_fused|triton_|compiledf|torch-compiled|graph_\d"),
    "matrix products": re.compile(r"\b(mm|addmm|bmm|baddbmm|linear)\b|mkl|gemm|cutlass|nvjet|convolution|wgrad|dgrad"),
    "GELU": re.compile(r"gelu"),
    "LayerNorm": re.compile(r"layer_?norm"),
    "copies, sums and products by element": re.compile(
        r"copy|add|mul|sub|div|cat|stack|sum|fill|zero|clone|contiguous|elementwise|reduce"
    ),
}
OTHERS = "others"


def kernel_shares(trainee: Trainee, images: Tensor) -> dict[str, float]:
    """Share of the time of one step by kind, the largest first; they add up to 1.

    On a GPU of the time that kernels ran, on a CPU of the time that the calls of operations took.
    """
    cuda = trainee.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with trainee.turn():
        trainee.step(images)
        with profile(activities=activities) as profiler:
            trainee.step(images)
    spent: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        if not cuda:
            spent[kind_of(event.key)] += event.self_cpu_time_total
        elif event.device_type == DeviceType.CUDA:
            spent[kind_of(event.key)] += event.self_device_time_total
    whole = sum(spent.values()) or 1.0
    shares = {name: round(time / whole, 4) for name, time in sorted(spent.items(), key=lambda item: -item[1])}
    return {name: share for name, share in shares.items() if share}


def kind_of(operation: str) -> str:
    """What an operation's name says that it is."""
    return next((kind for kind, names in _KINDS.items() if names.search(operation.lower())), OTHERS)
