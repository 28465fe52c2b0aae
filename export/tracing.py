"""Run torch's exporter, quietly, in the state in which its graphs are simple.

Layers that exist only for training are merged first (`edgemim.export.reparameterise`). Attention is computed step by
step during the export: fused, some backbones do not export at all, and the others hide the attention from passes
and quantizers.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import onnx_ir as ir
import torch
from timm.layers import set_fused_attn, use_fused_attn

from edgemim.errors import EdgemimError
from edgemim.export.passes.module_names import SCOPES_KEY
from edgemim.export.reparameterise import reparameterise

_NOISY_LOGGERS = ("onnx_ir", "onnxscript", "torch.export", "torch.fx", "torch.onnx")


def trace(model: torch.nn.Module, images: torch.Tensor, *, input_name: str, output_name: str) -> ir.Model:
    """Export at the exporter's own opset, with the fixed shape of `images`.

    Returns:
        The graph, whose nodes carry the exporter's notes of where they come from: scopes that are modules of `model`,
        also where layers were merged.

    Raises:
        EdgemimError: torch cannot export this model; the message names the module, and has torch's words.
    """
    deployed = reparameterise(model)
    with _step_by_step_attention(deployed), _quiet(), torch.no_grad():
        if deployed is not model:
            # A merged copy has lost what some layers compute at their first run and keep (TinyViT's attention biases).
            deployed(images)
        try:
            program = torch.onnx.export(
                deployed,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=[input_name],
                output_names=[output_name],
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise EdgemimError(
                f"torch {torch.__version__} cannot export {_culprit(error, deployed)} to ONNX: "
                f"{_first_line(error)}; choose another backbone, or another torch version"
            ) from error
    assert program is not None
    graph: ir.Model = program.model
    _leave_out_new_modules(graph, {name for name, _ in model.named_modules()})
    return graph


def count_layer_norms(model: torch.nn.Module, images: torch.Tensor) -> dict[str, int]:
    """How often each `nn.LayerNorm` runs in one forward pass, by module name; unused ones are left out."""
    calls: Counter[str] = Counter()

    def counter(name: str) -> Callable[..., None]:
        return lambda *_: calls.update([name])

    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)]
    hooks = [module.register_forward_hook(counter(name)) for name, module in norms]
    try:
        # Not inference_mode: some models cache a table at their first run, and could not be traced with it.
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return dict(calls)


def _leave_out_new_modules(graph: ir.Model, known: set[str]) -> None:
    """A layer that merging made (`mixer.reparam_conv`) is in no model that anybody has; its parent stands for it."""
    for node in graph.graph:
        if SCOPES_KEY in node.metadata_props:
            *modules, operator = ast.literal_eval(node.metadata_props[SCOPES_KEY])
            node.metadata_props[SCOPES_KEY] = repr([*(name for name in modules if name in known), operator])


@contextlib.contextmanager
def _step_by_step_attention(model: torch.nn.Module) -> Iterator[None]:
    """Turn fused attention off in timm's switch, and in the layers, which read it when they are built."""
    before = use_fused_attn(), use_fused_attn(experimental=True)
    fused = [module for module in model.modules() if getattr(module, "fused_attn", None) is True]
    set_fused_attn(False)
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        set_fused_attn(*before)
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's deprecation warnings about itself, its remarks on what it did not fold, and the program
    that it prints when it fails."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.filterwarnings("ignore", category=category)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _culprit(error: BaseException, model: torch.nn.Module) -> str:
    """The innermost module at work when the error was raised, `module 'blocks.0.act' of VisionTransformer`.

    The traceback shows it: the module whose forward ran, or the node of the traced program that was translated.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found = ""
    for frame in _frames(error):
        for value in list(frame.f_locals.values()):
            if isinstance(value, torch.nn.Module):
                found = names.get(id(value), found)
            elif isinstance(value, torch.fx.Node):
                scopes = [str(path) for path, _ in value.meta.get("nn_module_stack", {}).values()]
                found = next((path for path in reversed(scopes) if path in names.values()), found)
    return f"module {found!r} of {type(model).__name__}" if found else type(model).__name__


def _frames(error: BaseException) -> Iterator[types.FrameType]:
    """From the outermost call to where the error began, through all errors that it was raised from."""
    while True:
        yield from (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        if error.__cause__ is None:
            return
        error = error.__cause__


def _first_line(error: BaseException) -> str:
    """The exporter wraps errors in pages of advice; the innermost cause says what happened."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
