"""The name that others know `compressor.models.architecture` by."""

from compressor.models.architecture import Architecture as Architecture
