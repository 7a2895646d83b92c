"""What distillation gained and what it cost: the result beside its own architecture trained without a teacher."""

from __future__ import annotations

from compressor.report.format import number, significant
from compressor.report.values import Record, dig, metric_of, score_of


def distillation_line(record: Record) -> str:
    """One sentence of plain text; "" if the result had no teacher."""
    config = dig(record, "recipe", "train", "distill")
    if not config:
        return ""
    teacher = "the unscaled network" if config["teacher"] == "reference" else config["teacher"]
    sentence = f"distilled from {teacher} (temperature {config['temperature']:g}, weight {config['weight']:g})"
    plain = dig(record, "baseline", "undistilled")
    own, without = score_of(record), score_of(plain or {})
    if own is None or without is None:
        return f"{sentence}; what that is worth shows baselines: [undistilled]"
    metric = metric_of(record)
    gained = f"{metric.text(own)}, without {metric.text(without)}"
    if (plain or {}).get("widths") != record.get("widths"):
        return f"{sentence}: {gained}, at the widths that it had before it was made smaller"
    spent, alone = (_seconds(one) for one in (record, plain))
    time = f", in {significant(spent / alone)} times the training time" if spent and alone else ""
    return f"{sentence}: {gained}{time}"


def _seconds(network: Record) -> float:
    return sum(number(dig(epoch, "seconds")) or 0.0 for epoch in network.get("training") or [])
