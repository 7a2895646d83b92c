"""A cost: the most channels in one layer, for an accelerator that takes no more at once."""

from compressor.costs import Cost


def evaluator(context):
    """A function of an architecture."""
    return lambda architecture: max(architecture.widths.values())


def shipped(network):
    """The same of a network that was trained."""
    return max(network.architecture.widths.values())


WIDEST = Cost(
    name="widest",
    title="channels of the widest layer",
    description="most channels in one layer, such as 24 or 0.5x",
    evaluator=evaluator,
    shipped=shipped,
)
