"""Stacked layers of basic units in place of pairs of weight layers (TissueNet)."""

from compressor.stacking.layers import stack_
from compressor.stacking.merge import rearranged
from compressor.stacking.sites import Site, find_sites, select

__all__ = ["Site", "find_sites", "rearranged", "select", "stack_"]
