"""`python -m compressor`, the same as the command `compressor`."""

from compressor.cli.root import main

if __name__ == "__main__":  # processes that a sweep starts import this module too
    main(prog_name="compressor")
