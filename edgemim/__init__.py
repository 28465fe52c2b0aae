"""edgemim: masked-image-modelling backbones, distilled, quantized and proven on the device."""

__version__ = "0.1.0"
