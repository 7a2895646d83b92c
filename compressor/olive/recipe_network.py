"""The model script that configurations of Olive, written by earlier versions, name."""

from compressor.integrations.olive.recipe_network import load_network

__all__ = ["load_network"]
