"""The built-in search methods: a module or package each, whose `METHOD` is a `compressor.search.Method`.

What lies here is found by its place. Reading a recipe imports these modules, so they import torch within functions
only.
"""
