"""Our pass for Microsoft Olive (`pip install onnx-compressor[olive]`). Inside this package `import olive` is theirs."""
