"""The name that plug-ins know `compressor.costs.solver` by."""

from compressor.costs.solver import UNBOUNDED as UNBOUNDED
from compressor.costs.solver import Bounds as Bounds
from compressor.costs.solver import Solution as Solution
from compressor.costs.solver import largest_within as largest_within
