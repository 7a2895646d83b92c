"""The report page: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.recipe.cost import cost_title, costs
from compressor.recipe.method import sections_of
from compressor.report import figures
from compressor.report.markup import Markup, element, join, table
from compressor.report.network_table import network_notes, network_table, value_cell
from compressor.report.precision import precision_section
from compressor.report.sections import (
    csv_link,
    document,
    environment_section,
    header,
    note,
    recipe_section,
    seconds_section,
    section,
    split_sizes,
    state,
)
from compressor.report.values import (
    Limit,
    Network,
    Record,
    budget_met,
    conditions,
    dig,
    layer_order,
    limits,
    metric_of,
    networks,
    recorded_costs,
    score_of,
    slack_text,
    unsteady,
    widths_of,
)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_PROVIDERS["tensorrt"] = "TensorrtExecutionProvider"


def render_html(record: Record) -> str:
    """Render a run record as one self-contained page; sections whose data is absent are left out."""
    name = str(record.get("name") or "run")
    parts = (
        _networks,
        _channels,
        *sections_of(record),
        _training,
        _latency,
        *(section for cost in costs().values() for section in cost.sections),
        precision_section,
        seconds_section,
        _usage,
        _configuration,
        environment_section,
    )
    body = [_header(record, name), _verdict(record), *(part(record) for part in parts)]
    return document(f"{name}: compression report", *body)


def _header(record: Record, name: str) -> Markup:
    data = record.get("dataset") or {}
    shape = " × ".join(str(size) for size in data.get("input_shape") or [])
    facts = [
        ("method", record.get("method")),
        ("data", data.get("name")),
        ("input", shape),
        ("classes", data.get("classes")),
        ("samples", split_sizes(data)),
        ("seed", record.get("seed")),
    ]
    return header(name, facts)


def _verdict(record: Record) -> Markup:
    rows, met = limits(record), budget_met(record)
    words = {True: "Budget met", False: "Budget missed", None: "Budget not checked"}
    children: list[object] = [element("h2", words[met] if rows else "No budget was set")]
    if rows:
        head: list[object] = ["limit", "allowed", "result", "difference", ""]
        children.append(element("div", table(head, [_limit_row(row) for row in rows]), class_="wide"))
    binding, remark = dig(record, "budget", "binding"), dig(record, "budget", "note")
    if len(rows) > 1 and binding:
        children.append(element("p", f"Of these limits {cost_title(binding)} is the one that stops growth."))
    if remark:
        children.append(element("p", remark))
    return element("section", *children, *_claims(record), class_=f"verdict {state(met)}")


def _limit_row(row: Limit) -> list[object]:
    word = {True: "met", False: "missed", None: "not measured"}[row.met]
    badge = element("span", word, class_=f"badge {state(row.met)}")
    return [row.title, value_cell(row.limit), value_cell(row.got), slack_text(row), badge]


def _claims(record: Record) -> list[Markup]:
    """One sentence on the metric, and one that compares it, for whoever reads no further."""
    metric, own = metric_of(record), score_of(record)
    if own is None:
        return []
    items = [join((element("b", metric.text(own)), f" {metric.name}{metric.remark} on the ONNX file"))]
    for other in networks(record)[1:]:
        its = score_of(other.data)
        if its is not None:
            difference = metric.difference(own, its).replace("-", "−")
            items.append(join((element("b", difference), f" against {_in_words(other)}")))
    return [element("p", *(element("span", item) for item in items), class_="claims")]


def _in_words(network: Network) -> str:
    known = {"uniform": "uniform scaling to the same budget", "reference": "the unscaled network"}
    return known.get(network.key, network.title)


def _networks(record: Record) -> Markup:
    found = networks(record)
    notes = [note(text) for text in network_notes(found, record)]
    table = element("div", network_table(found, record), class_="wide")
    return section("Networks", table, *notes, _numbers(found, record))


def _numbers(found: Sequence[Network], record: Record) -> Markup:
    """The networks as comma-separated values, numbers in full."""
    metric = metric_of(record)
    paths: dict[str, tuple[str, ...]] = {
        **{name: (name,) for name in recorded_costs(found)},
        "accuracy": ("accuracy", "onnx"),
        "accuracy_pytorch": ("accuracy", "torch"),
        **({} if metric.is_accuracy else {metric.name: ("metric", "onnx")}),
        "max_rel_error": ("parity", "max_rel_error"),
        "latency_median_ms": ("latency_ms", "median"),
        "latency_p99_ms": ("latency_ms", "p99"),
    }
    rows = [[network.title, *(dig(network.data, *path) for path in paths.values())] for network in found]
    return csv_link("networks.csv", ["network", *paths], rows)


def _channels(record: Record) -> Markup:
    order = layer_order(record)
    found = [network for network in networks(record) if widths_of(network, record)]
    if record.get("reference_widths") and not any(network.key == "reference" for network in found):
        found.append(Network("reference", "unscaled network", {}))
    if not order or not found:
        return Markup()
    text = note("At the end of each row: channels of the unscaled network → channels of the result.")
    columns = [widths_of(network, record) for network in found]
    rows = [[layer, *(widths.get(layer) for widths in columns)] for layer in order]
    link = csv_link("channels.csv", ["layer", *(network.title for network in found)], rows)
    return section("Channels per layer", figures.channels_figure(order, found, record), text, link)


def _training(record: Record) -> Markup:
    found = [network for network in networks(record) if figures.has_training(network)]
    if not found:
        return Markup()
    keys = ("epoch", "loss", "validation_loss", "validation_accuracy", "lr", "seconds")
    rows = [[n.title, *(epoch.get(key) for key in keys)] for n in found for epoch in n.data.get("training") or []]
    return section("Training", figures.training_figure(found), csv_link("training.csv", ["network", *keys], rows))


def _configuration(record: Record) -> Markup:
    return recipe_section({"recipe": record["recipe"]}) if record.get("recipe") else Markup()


def _latency(record: Record) -> Markup:
    found = [network for network in networks(record) if figures.latency_samples(network)]
    if not found:
        return Markup()
    shaky = [network.title for network in found if unsteady(network.data["latency_ms"])]
    hows = {conditions(network.data["latency_ms"]) for network in found} - {""}
    text = "Raw samples after warm-up; dashed lines are medians."
    if len(hows) == 1:
        text = f"Measured with {hows.pop()}. {text}"
    elif hows:
        text = f"The networks were not measured alike (see the table): compare with care. {text}"
    if shaky:
        text += f" The machine was unsteady (p90 above 1.5 × median: {'; '.join(shaky)}): compare with care."
    return section("Latency", figures.latency_figure(found), note(text))


def _usage(record: Record) -> Markup:
    shape = dig(record, "dataset", "input_shape")
    if not shape:
        return Markup()
    provider = str(dig(record, "latency_ms", "provider") or "cpu")
    head = (
        "import json\n"
        "import numpy as np\n"
        "import onnxruntime as ort\n"
        f'session = ort.InferenceSession("model.onnx", providers=["{_PROVIDERS.get(provider.lower(), provider)}"])\n'
        "notes = session.get_modelmeta().custom_metadata_map\n"
    )
    export = dig(record, "recipe", "export") or {}
    body = _text_usage() if len(shape) == 1 else _image_usage(shape, export, masks=metric_of(record).name == "mIoU")
    return section("Use the model", element("pre", element("code", head + body)))


def _text_usage() -> str:
    return (
        'words = json.loads(notes["compressor.classes"])\n'
        "text = words[:5]  # yours, in words of the vocabulary\n"
        "tokens = np.array([[words.index(word) for word in text]], dtype=np.int64)\n"
        'logits = session.run(None, {"tokens": tokens})[0]  # (texts, words of each, vocabulary)\n'
        "print([words[best] for best in logits[0].argmax(axis=1)])  # after each word, the one to expect next"
    )


def _image_usage(shape: Sequence[int], export: Mapping[str, Any], *, masks: bool) -> str:
    raw = (export.get("preprocess") or "none") != "none"
    batch = export.get("batch") or 1
    channels, height, width = shape
    sizes = ", ".join(str(size) for size in ((batch, height, width, channels) if raw else (batch, *shape)))
    if masks:
        last = (
            'names = json.loads(notes["compressor.classes"])\n'
            "masks = scores.argmax(axis=1)  # the class of every pixel, (images, height, width)\n"
            "print([names[found] for found in np.unique(masks)])"
        )
    else:
        last = 'print([json.loads(notes["compressor.classes"])[best] for best in scores.argmax(axis=1)])'
    if raw:
        remark = "of any size, " if export["preprocess"] == "resize" else ""
        return (
            f"images = np.zeros(({sizes}), dtype=np.uint8)  # yours, {remark}channels last\n"
            'scores = session.run(None, {"images": images})[0]\n' + last
        )
    return (
        'mean, std = (np.array(json.loads(notes[f"compressor.{key}"])).reshape(-1, 1, 1) for key in ("mean", "std"))\n'
        f"images = np.zeros(({sizes}), dtype=np.uint8)  # yours, channels first\n"
        'scores = session.run(None, {"images": ((images / 255 - mean) / std).astype(np.float32)})[0]\n' + last
    )
