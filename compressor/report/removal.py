"""Which engine removed the channels of which groups while the search pruned.

The record has it under trace.removal, or in each iteration, as `compressor.dependency.ChannelRemover.record` writes it.
"""

from __future__ import annotations

from markupsafe import Markup

from compressor.report.rendering import render
from compressor.report.values import Record, dig, last_iteration


def removal_line(record: Record) -> str:
    """One sentence of plain text; "" if the method removed no channels."""
    found = _found(record)
    if found is None:
        return ""
    sentence = _sentence(found)
    if not (by_tracer := found["tracer"]):
        return sentence
    names, reason = list(by_tracer), next(iter(by_tracer.values()))
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{sentence}; {names[0]}{others} by our tracer, because {reason}"


def removal_section(record: Record) -> Markup:
    """The sentence, and a table of the groups that torch-pruning could not remove."""
    found = _found(record)
    if found is None:
        return Markup()
    sentence = _sentence(found)
    rows = list(found["tracer"].items())
    return render("removal.html.j2", sentence=f"{sentence[0].upper()}{sentence[1:]}", by_tracer=rows)


def _sentence(found: Record) -> str:
    events, count = found["events"], len(found["torch_pruning"])
    text = f"channels of {count} of {found['groups']} groups removed by torch-pruning {found['version']}"
    if found["tracer"] or not events["tracer"]:
        return text
    return f"{text} ({events['tracer']} of {sum(events.values())} removals by our tracer, where it would have differed)"


def _found(record: Record) -> Record | None:
    """The record of the last pruning phase."""
    iteration = last_iteration(record) or {}
    found: Record | None = (
        dig(record, "trace", "removal") or dig(record, "trace", "pruned", "removal") or iteration.get("removal")
    )
    return found
