"""From an `onnx` artifact to one with INT8 flavours: calibration, quantizers, rules."""
