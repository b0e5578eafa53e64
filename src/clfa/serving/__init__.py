"""A trained run in use: Python, files, a cluster, ONNX without PyTorch, HTTP, Hugging Face's classes."""
