"""What a placement decides: sites, the tensors that become INT8, grouped into units that are switched together.

A site is named by the torch module and its role there, `blocks.7.mlp.fc2:input`, not by a tensor of one graph:
ranges are measured once, on the fp32 flavour, and hold for every flavour of the same checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Site:
    """One tensor of one graph that gets a QuantizeLinear and a DequantizeLinear.

    Attributes:
        module: The torch module it belongs to.
        role: What it is there. `input` and `weight` of a layer; `output` and `softmax` of an attention, or `left` and
            `right` of its products; `skip` and `branch` of a residual addition. Numbered (`input.1`) where a module
            has several.
        value: Name of the tensor in this graph.
        readers: Node name and input position of everything that reads the quantized tensor; whatever else reads it
            keeps the float.
        axis: Weights: the axis of the output channels, one scale each. Activations: None, one scale in all.
        unsigned: Never negative, so that a target with uint8 gets one bit more.
    """

    module: str
    role: str
    value: str
    readers: tuple[tuple[str, int], ...]
    axis: int | None = None
    unsigned: bool = False

    @property
    def key(self) -> str:
        """`blocks.7.mlp.fc2:input`: the same in every flavour."""
        return f"{self.module}:{self.role}"

    @property
    def is_weight(self) -> bool:
        """Whether it is a constant, whose range needs no images."""
        return self.axis is not None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Sites that only make sense together: a layer with its input and weight, or one attention.

    Attributes:
        name: The torch module: `blocks.7.mlp.fc2`, or `blocks.7.attn` for an attention; with its kind where the module
            does more than that (`blocks.7.add`), numbered (`blocks.7.add#1`) where there are several.
        kind: What the picture of a sensitivity calls it: `patch_embed`, `head`, `conv`, `depthwise`, `attention` or
            `add`, else the last part of the module's name (`qkv`, `fc1`, ...).
        sites: At least one.
    """

    name: str
    kind: str
    sites: tuple[Site, ...]

    @property
    def block(self) -> str:
        """The block it lies in, `blocks.7`: the name up to its last number; empty outside of any."""
        return block_of(self.name)

    @property
    def layer(self) -> tuple[str, Site] | None:
        """Name of the node that has the weight, and the site of its input; None for anything but a layer."""
        node = next((reader for site in self.sites if site.is_weight for reader, _ in site.readers), None)
        data = next((site for site in self.sites if not site.is_weight), None)
        return None if node is None or data is None else (node, data)


def block_of(module: str) -> str:
    """`blocks.7` of `blocks.7.mlp.fc2`, the empty string of `head`."""
    parts = module.split(".")
    numbers = [position for position, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1] + 1]) if numbers else ""
