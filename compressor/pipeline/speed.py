"""Whether a result is faster than the network that it was made from, and if not, which widths are the cause."""

from __future__ import annotations

from collections.abc import Mapping

_FASTER = 0.98  # of the unscaled network's latency; more is no gain
_NAMED = 6  # widths that a remark names


def speed_remark(
    ms: float, unscaled_ms: float, widths: Mapping[str, int], unscaled: Mapping[str, int], block: int
) -> str | None:
    """What the user must know of a result that is not faster than the unscaled network; None where it is.

    Args:
        ms: median latency of the result
        unscaled_ms: of the unscaled network, measured beside it
        widths: of the result
        unscaled: widths of the unscaled network
        block: channels that the provider computes at once
    """
    if ms <= _FASTER * unscaled_ms or dict(widths) == dict(unscaled):
        return None
    text = f"the result is not faster than the unscaled network: {ms:.3g} against {unscaled_ms:.3g} ms a batch"
    odd = [f"{name} {width}" for name, width in widths.items() if width % block and width > block]
    wider = [
        f"{name} {unscaled[name]} to {width}" for name, width in widths.items() if width > unscaled.get(name, width)
    ]
    if odd:
        text += f"; {block} channels are computed at once here, and these widths are no multiple of that: {_few(odd)}"
    if wider:
        text += f"; these widths are larger than before: {_few(wider)}"
    if not odd and not wider:
        text += "; what takes the time does not depend on the widths"
    return text


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
