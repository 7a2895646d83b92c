"""Stacked layers of basic units in place of pairs of weight layers (TissueNet). Names load on first use.

`spec` has units and stacks as data, without torch; `layers` builds them; `merge` lays them out for a runtime; `sites`
says which pairs of a network's layers can be stacked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.lazy import lazily

if TYPE_CHECKING:
    from compressor.models.stacked.layers import stack_ as stack_
    from compressor.models.stacked.merge import everywhere as everywhere
    from compressor.models.stacked.merge import rearranged as rearranged
    from compressor.models.stacked.sites import Site as Site
    from compressor.models.stacked.sites import find_sites as find_sites
    from compressor.models.stacked.sites import select as select

_HOME = {
    "Site": "sites",
    "everywhere": "merge",
    "find_sites": "sites",
    "rearranged": "merge",
    "select": "sites",
    "stack_": "layers",
}
__all__ = ["Site", "everywhere", "find_sites", "rearranged", "select", "stack_"]

__getattr__, __dir__ = lazily(__name__, _HOME)
