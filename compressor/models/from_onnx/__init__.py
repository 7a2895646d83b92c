"""Networks of ONNX files: read, interpreted node by node as torch layers, and compared with ONNX Runtime.

`network.network_of` is all that others need. `conversion` makes the graph; `operators` has all that is known: `layers`
nodes with weights, `elementwise`, `movement` and `resampling` the others, `shape_arithmetic` those of numbers alone.
`sizes` lets literals follow batch and widths, `checking` is the proof, `interface` what the file was like from outside.
"""
