"""The name that configurations of Olive know `compressor.integrations.olive` by."""
