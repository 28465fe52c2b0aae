"""What an engine consists of, as it says itself: how many layers, how many of them in INT8, attentions in one kernel.

It is for the report, to see why one candidate is faster than another. Versions differ: TensorRT 8 shows a whole
transformer as one layer or few, 10 shows every kernel, and 11 tells format and type of a tensor apart.

Source: TensorRT Developer Guide, "Engine Inspector"
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.runtime.nvidia.library import Library

# Layers that move or convert, and compute nothing.
_MOVES = ("reformat", "noop", "constant", "shuffle")
_ATTENTION = "mha"


def inspect_engine(library: Library, engine: Any) -> dict[str, int] | None:
    """Counts by name; None where the engine was built without the details, or cannot be inspected.

    Returns:
        `layers`: all; `int8`: those that compute on an INT8 input; `attentions`: those that are a whole attention;
        `moves`: those that only move or convert data.
    """
    trt = library.module
    inspector = engine.create_engine_inspector()
    if inspector is None:
        return None
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, TypeError, KeyError):
        return None
    if not layers or not all(isinstance(layer, Mapping) for layer in layers):
        return None  # names alone
    return summarise_layers(layers)


def summarise_layers(layers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The counts of `inspect_engine` for the layers of its JSON."""
    computing = [layer for layer in layers if not _moves(layer)]
    return {
        "layers": len(layers),
        "int8": sum(_takes_int8(layer) for layer in computing),
        "attentions": sum(_ATTENTION in _name(layer) for layer in layers),
        "moves": len(layers) - len(computing),
    }


def _moves(layer: Mapping[str, Any]) -> bool:
    return str(layer.get("LayerType", "")).lower() in _MOVES


def _name(layer: Mapping[str, Any]) -> str:
    return f"{layer.get('Name', '')} {layer.get('TacticName', '')}".lower()


def _takes_int8(layer: Mapping[str, Any]) -> bool:
    inputs = layer.get("Inputs", ())
    return any("int8" in f"{i.get('Format/Datatype', '')} {i.get('Datatype', '')}".lower() for i in inputs)
