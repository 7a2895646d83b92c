"""The costs that a budget may limit: a module each, whose `COST` is a `compressor.costs.Cost`.

What lies here is found by its place. Reading a recipe imports these modules, so they import torch within functions
only.
"""
