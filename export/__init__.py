"""From a checkpoint to an `onnx` artifact: export, graph passes, structure checks, parity with torch."""
