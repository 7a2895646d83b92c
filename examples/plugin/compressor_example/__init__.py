"""A search method, a network, a data set and an export format for compressor."""
