"""`python -m quick_compressor`: the command line as `python -m compressor`, but for exports, which are traced."""

from quick import exporting_by_tracing

from compressor.cli.root import main

exporting_by_tracing(setattr)
main(prog_name="compressor")
