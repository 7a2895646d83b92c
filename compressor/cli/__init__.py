"""The command line: every command and what it prints; torch is imported only inside commands.

Public: `main`, the click group, which another click application may hold as one of its commands.
"""

from __future__ import annotations

from compressor.cli.root import main as main

__all__ = ["main"]
