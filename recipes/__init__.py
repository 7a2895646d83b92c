"""Recipes that come with the package: YAML files, nothing else."""
