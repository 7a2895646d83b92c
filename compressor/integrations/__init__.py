"""Plug points of other tools, a sub-package each; nothing else of the package imports them but the command line."""
