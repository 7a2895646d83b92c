"""The report page: one HTML file that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from compressor.bench.providers import providers
from compressor.errors import CompressorError, RunError
from compressor.plugins import with_plugins
from compressor.recipe.cost import cost_title, costs
from compressor.recipe.method import sections_of
from compressor.recipe.model_name import ModelName
from compressor.report import figures
from compressor.report.distillation import distillation_line
from compressor.report.format import Cell, value_cell
from compressor.report.leads import run_lead
from compressor.report.method_figures import legend_of
from compressor.report.network_charts import channels_of, fronts_of
from compressor.report.network_table import network_notes, network_table
from compressor.report.precision import precision_section
from compressor.report.rendering import render_page
from compressor.report.sections import (
    blocks_of,
    csv_file,
    environment_of,
    input_shape,
    seconds_of,
    split_sizes,
    state,
)
from compressor.report.values import (
    Limit,
    Record,
    budget_met,
    conditions,
    dig,
    limits,
    metric_of,
    networks,
    slack_text,
    unsteady,
)

_GROUP = "compressor.report_sections"
_KIND = '{"float": "float32", "double": "float64"}.get(taken.type[7:-1], taken.type[7:-1])'  # what NumPy calls it


def render_html(record: Record) -> str:
    """Render a run record as one self-contained page; sections whose data is absent are left out."""
    name = str(record.get("name") or "run")
    return render_page(
        "run.html.j2",
        title=f"{name}: compression report",
        name=name,
        facts=_facts(record),
        verdict=_verdict(record),
        metric=metric_of(record),
        networks=_networks(record),
        fronts=fronts_of(record),
        channels=channels_of(record),
        of_method=_sections(record, sections_of(record)),
        training=_training(record),
        latency=_latency(record),
        of_costs=_sections(record, [section for cost in costs().values() for section in cost.sections]),
        precision=precision_section(record),
        of_plugins=_sections(record, list(with_plugins(_GROUP, {}).values())),
        seconds=seconds_of(record),
        usage=_usage(record),
        configuration=blocks_of({"recipe": record["recipe"]}) if record.get("recipe") else None,
        environment=environment_of(record),
    )


def _sections(record: Record, functions: Sequence[Callable[[Record], Any]]) -> list[Markup]:
    """The sections that these functions give, of which plug-ins may have some.

    Raises:
        RunError: one fails, or gives something else than `markupsafe.Markup` or None
    """
    found = [(function, _given(function, record)) for function in functions]
    for function, section in found:
        if not (section is None or isinstance(section, Markup)):
            raise RunError(
                f"{function.__module__}.{function.__qualname__}: a section of the report must be a markupsafe.Markup "
                f"(compressor.report.sections makes them) or None, not a {type(section).__name__}"
            )
    return [section for _, section in found if section]


def _given(function: Callable[[Record], Any], record: Record) -> Any:
    try:
        return function(record)
    except CompressorError:
        raise
    except Exception as error:  # of a plug-in; the run is there, and `compressor report` makes the page another time
        raise RunError(
            f"{function.__module__}.{function.__qualname__}: this section of the report failed: "
            f"{type(error).__name__}: {error}"
        ) from error


def _facts(record: Record) -> list[tuple[str, Any]]:
    data = record.get("dataset") or {}
    return [
        ("method", record.get("method")),
        ("data", data.get("name")),
        ("input", input_shape(data)),
        *([("classes", data.get("classes")), ("samples", split_sizes(data))] if data.get("test") != 0 else []),
        ("seed", record.get("seed")),
    ]


def _verdict(record: Record) -> dict[str, Any]:
    rows, met = limits(record), budget_met(record)
    words = {True: "Budget met", False: "Budget missed", None: "Budget not checked"}
    binding = dig(record, "budget", "binding")
    return {
        "state": state(met),
        "title": words[met] if rows else "No budget was set",
        "limits": [_limit_row(row) for row in rows],
        "lead": run_lead(record),
        "binding": cost_title(binding) if len(rows) > 1 and binding else None,
        "remarks": [
            text
            for text in (
                dig(record, "budget", "note"),
                record.get("slow"),
                *(record.get("remarks") or []),
                distillation_line(record),
            )
            if text
        ],
    }


def _limit_row(row: Limit) -> list[object]:
    word = {True: "met", False: "missed", None: "not measured"}[row.met]
    badge = Cell(badges=[(word, state(row.met))])
    return [row.title, value_cell(row.limit), value_cell(row.got), slack_text(row), badge]


def _networks(record: Record) -> dict[str, Any]:
    found = networks(record)
    return {**network_table(found, record), "notes": network_notes(found, record)}


def _training(record: Record) -> dict[str, Any] | None:
    found = [network for network in networks(record) if figures.has_training(network)]
    if not found:
        return None
    keys = ("epoch", "loss", "validation_loss", "validation_accuracy", "lr", "seconds")
    rows = [[n.title, *(epoch.get(key) for key in keys)] for n in found for epoch in n.data.get("training") or []]
    return {
        "legend": legend_of(figures.looks_of(found)),
        "figures": figures.training_figures(found),
        "csv": csv_file("training.csv", ["network", *keys], rows),
    }


def _latency(record: Record) -> dict[str, Any] | None:
    found = [network for network in networks(record) if figures.latency_samples(network)]
    if not found:
        return None
    shaky = [network.title for network in found if unsteady(network.data["latency_ms"])]
    hows = {conditions(network.data["latency_ms"]) for network in found} - {""}
    text = "Raw samples after warm-up; dashed lines are medians."
    if len(hows) == 1:
        text = f"Measured with {hows.pop()}. {text}"
    elif hows:
        text = f"The networks were not measured alike (see the table): compare with care. {text}"
    if shaky:
        text += f" The machine was unsteady (p90 above 1.5 × median: {'; '.join(shaky)}): compare with care."
    return {"legend": legend_of(figures.looks_of(found)), "figures": figures.latency_figures(found), "text": text}


def _usage(record: Record) -> str | None:
    shape = dig(record, "dataset", "input_shape")
    own = dig(record, "dataset", "test") == 0  # data, inputs and outputs are known to the user's functions alone
    if not own and (not isinstance(shape, Sequence) or len(shape) not in (1, 3)):
        return None
    provider = str(dig(record, "latency_ms", "provider") or "cpu")
    head = (
        "import json\n"
        "import numpy as np\n"
        "import onnxruntime as ort\n"
        f'session = ort.InferenceSession("model.onnx", providers=["{_long_name(provider.lower())}"])\n'
        "notes = session.get_modelmeta().custom_metadata_map\n"
    )
    export = dig(record, "recipe", "export") or {}
    if own:
        return head + _own_usage()
    head += "taken = session.get_inputs()[0]\n"
    if len(shape) == 1:
        return head + _text_usage()
    ready = ":" in str(dig(record, "recipe", "data", "name") or "")  # as transforms of the user's give them
    given = ModelName.of(str(dig(record, "recipe", "model", "name") or "")).file is not None
    return head + _image_usage(shape, export, masks=metric_of(record).name == "mIoU", ready=ready, given=given)


def _long_name(provider: str) -> str:
    """What ONNX Runtime calls a provider."""
    known = providers().get(provider)
    return provider if known is None else known.chain[0]


def _own_usage() -> str:
    return (
        "given = {}\n"
        "for taken in session.get_inputs():\n"
        f"    kind = {_KIND}\n"
        "    shape = [size if isinstance(size, int) else 1 for size in taken.shape]\n"
        "    given[taken.name] = np.zeros(shape, dtype=kind)  # yours\n"
        "names = [made.name for made in session.get_outputs()]\n"
        "print(dict(zip(names, session.run(names, given))))"
    )


def _text_usage() -> str:
    return (
        'words = json.loads(notes["compressor.classes"])\n'
        "text = words[:5]  # yours, in words of the vocabulary\n"
        "tokens = np.array([[words.index(word) for word in text]], dtype=np.int64)\n"
        "logits = session.run(None, {taken.name: tokens})[0]  # (texts, words of each, vocabulary)\n"
        "print([words[best] for best in logits[0].argmax(axis=1)])  # after each word, the one to expect next"
    )


def _image_usage(shape: Sequence[int], export: Mapping[str, Any], *, masks: bool, ready: bool, given: bool) -> str:
    """Of an image network; `given`: its file takes what the ONNX file took that it was made of."""
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
            "scores = session.run(None, {taken.name: images})[0]\n" + last
        )
    if ready:
        made = (
            f"values = np.zeros(({sizes}), dtype=np.float32)  # yours, channels first, as your transforms give them\n"
        )
    else:
        made = (
            'mean, std = (np.array(json.loads(notes[f"compressor.{key}"])).reshape(-1, 1, 1) '
            'for key in ("mean", "std"))\n'
            f"images = np.zeros(({sizes}), dtype=np.uint8)  # yours, channels first\n"
            "values = (images / 255 - mean) / std\n"
        )
    if given:
        made += (
            f"if taken.shape[3] == {channels} != taken.shape[1]:  # channels last\n"
            "    values = values.transpose(0, 2, 3, 1)\n"
        )
    kind = _KIND if given else "np.float16" if export.get("half_io") else "np.float32"
    return f"{made}scores = session.run(None, {{taken.name: values.astype({kind})}})[0]\n{last}"
