"""`python -m compressor`, the same as the command `compressor`."""

from compressor.cli.root import main

main(prog_name="compressor")
