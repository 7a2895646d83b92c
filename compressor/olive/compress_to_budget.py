"""The name that configurations of Olive know our pass by."""

from compressor.integrations.olive.compress_to_budget import CompressToBudget

__all__ = ["CompressToBudget"]
