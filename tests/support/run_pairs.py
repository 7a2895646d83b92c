"""Runs that are paused, and what they leave."""

from safetensors.torch import load_file


def after(steps):
    """Ask to pause after so many steps."""
    asked = iter(range(steps))
    return lambda: next(asked, None) is None


def same(out, other):
    """Whether two runs, which must have found the same network, ended with the same weights, bit by bit."""
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (out, other))
    assert (out / "architecture.json").read_text() == (other / "architecture.json").read_text()
    assert ours.keys() == theirs.keys()
    return all(bool((ours[name] == theirs[name]).all()) for name in ours)
