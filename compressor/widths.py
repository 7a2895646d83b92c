"""The name that others know `compressor.dependency` by."""

from compressor.dependency import ChannelRemover as ChannelRemover
from compressor.dependency import DependencyGraph as WidthPlan
from compressor.dependency import dependency_graph as plan_widths
from compressor.dependency import remove_channels_ as remove_channels_
from compressor.dependency import resize_ as resize_

__all__ = ["ChannelRemover", "WidthPlan", "plan_widths", "remove_channels_", "resize_"]
