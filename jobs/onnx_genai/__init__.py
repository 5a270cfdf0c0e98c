"""An ONNX model in its runtime, onnxruntime-genai, in a process of its own."""
