"""Precisions of shipped files, a module each with its `PRECISION`; see `compressor.recipe.precision`."""
