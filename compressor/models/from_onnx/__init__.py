"""Networks of ONNX files: read, interpreted node by node as torch layers, and compared with ONNX Runtime.

`network_of` is all that others need. `conversion` makes the graph; `layers` has nodes with weights, `elementwise`,
`movement` and `resampling` the others, `sizes` the literals that must follow batch and widths, `checking` the proof.
"""
