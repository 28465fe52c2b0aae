"""INT8 by NNCF's post-training quantization, symmetric, so that every target takes the result.

Source: NNCF (Intel), "Neural Network Compression Framework for fast model inference", arXiv:2002.08679;
min-max ranges, SmoothQuant (Xiao et al., ICML 2023, arXiv:2211.10438) for transformers, and fast bias
correction, with NNCF's defaults.

Needs: nncf; pip install 'edgemim[export]'

Differs: activations get one scale per tensor, and unsigned ones are stored as int8 where the target has no uint8;
NNCF's default gives depthwise convolutions a scale per input channel, which ONNX Runtime and TensorRT refuse.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from edgemim.artifact import Artifact, refuse_existing
from edgemim.errors import MissingDependencyError
from edgemim.quantize.calibration import Calibration
from edgemim.quantize.flavour import NewFlavour, check_preprocess, read_fp32, write_flavours
from edgemim.quantize.graph import is_transformer, unshare_weights
from edgemim.quantize.qdq import check_qdq, make_signed, name_modules
from edgemim.quantize.quantizers import QUANTIZERS
from edgemim.quantize.quantizers._base import Progress, Quantizer, Say, silent
from edgemim.runtime.targets._base import Target


@dataclass(frozen=True, kw_only=True)
class NNCF(Quantizer):
    """NNCF with its own placement of Q/DQ.

    Attributes:
        fast_bias_correction: Correct biases by one statistic per layer; False runs the exact, slow algorithm.
    """

    fast_bias_correction: bool = True

    def quantize(
        self,
        artifact: Artifact,
        batches: Calibration,
        out: Path | str,
        *,
        target: Target,
        overwrite: bool = False,
        state: Path | None = None,
        say: Say = silent,
        progress: Progress | None = None,
    ) -> Artifact:
        """See `Quantizer.quantize`."""
        refuse_existing(Path(out), overwrite=overwrite)
        model = read_fp32(artifact)
        check_preprocess(artifact, batches)
        transformer = is_transformer(model)
        unshare_weights(model)
        batches = replace(batches, progress=progress or batches.progress)
        quantized = self._run(model, batches, artifact.content["input"]["name"], transformer)
        if "uint8" not in target.activation_dtypes:
            make_signed(quantized)
        name_modules(quantized, model)
        facts = {"nodes": check_qdq(quantized)}
        return write_flavours(
            artifact,
            out,
            [NewFlavour(name="int8-nncf", model=quantized, base="fp32", facts=facts)],
            batches,
            quantizer="nncf",
            settings={**asdict(self), "model_type": "transformer" if transformer else None},
            packages=("nncf", "onnx", "onnxruntime", "numpy"),
            overwrite=overwrite,
        )

    def _run(self, model: onnx.ModelProto, batches: Calibration, input_name: str, transformer: bool) -> onnx.ModelProto:
        nncf = _import_nncf()
        parameters = nncf.quantization.advanced_parameters
        per_tensor = parameters.QuantizationParameters(per_channel=False)
        with _quiet():
            quantized = nncf.quantize(
                model,
                nncf.Dataset(batches, lambda batch: {input_name: batch}),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(batches),
                fast_bias_correction=self.fast_bias_correction,
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                advanced_parameters=parameters.AdvancedQuantizationParameters(
                    activations_quantization_params=per_tensor
                ),
            )
        assert isinstance(quantized, onnx.ModelProto)
        return quantized


def _import_nncf() -> Any:
    """Import NNCF without its telemetry, which it decides on when it is imported."""
    before = os.environ.get("NNCF_CI")
    logger_class = logging.getLoggerClass()
    os.environ["NNCF_CI"] = "1"
    try:
        with _quiet():
            importlib.import_module("nncf.quantization.advanced_parameters")
            return importlib.import_module("nncf")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "nncf":
            raise
        raise MissingDependencyError("quantizer 'nncf'", "nncf", "export") from error
    finally:
        logging.setLoggerClass(logger_class)
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """NNCF logs and draws its progress bars on stdout, which belongs to our results."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


QUANTIZERS.add("nncf", NNCF)
