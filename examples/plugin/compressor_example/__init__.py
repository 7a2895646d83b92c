"""A search method, a cost, a network, a data set and an export format for compressor."""
