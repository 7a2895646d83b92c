"""The name that plug-ins know `compressor.costs.params_macs` by."""

from compressor.costs.params_macs import COSTS as COSTS
from compressor.costs.params_macs import count_macs as count_macs
from compressor.costs.params_macs import count_params as count_params
from compressor.costs.params_macs import macs as macs
from compressor.costs.params_macs import params as params
from compressor.costs.solver import of_widths as of_widths
