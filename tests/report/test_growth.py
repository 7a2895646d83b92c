"""The section on growth: what training took beside the unscaled network, and how the network grew."""

import copy
import html
import json
import re

import pytest

from compressor.pipeline.runner import run
from compressor.recipe import Recipe
from compressor.report import render_html, summary_lines

pytestmark = pytest.mark.usefixtures("quick_export")  # the export has tests of its own

# 23 steps of 13 images in an epoch; the unscaled network has 1,009 multiply-adds, the result 211.
STEPS, BATCH, DENSE, OWN = 23, 13, 1009, 211
FLOPS = [1_000_003, 800_011, 377_754]  # of growth; the dense network takes 6 · 1,009 · 13 · 23 = 1,810,146 an epoch
EPOCH = 6 * DENSE * BATCH * STEPS


def training(*seconds):
    return [{"epoch": i, "loss": 1.0, "validation_accuracy": 0.5, "seconds": s} for i, s in enumerate(seconds, 1)]


def grown(units=None):
    channels = [{"a": 3, "b": 5, "c": 1}, {"a": 13, "b": 0, "c": 7}, {"a": 13, "b": 11, "c": 29}]
    return {
        "epochs": [
            {
                "epoch": i + 1,
                "flops": flops,
                "added": 17 + i,
                "removed": 2 * i,
                "params": 101 * (i + 1),
                "macs": [31, 307, OWN][i],
                "channels": channels[i],
                "units": units and units[i],
                "seconds": [1.25, 2.5, 4.25][i],
            }
            for i, flops in enumerate(FLOPS)
        ],
        "rounds": [{"step": 23 * i, "params": 50.0 + 199 * i, "excess": 0.01 * i} for i in range(2)],
        "reference": {
            "params": 1000,
            "macs": DENSE,
            "channels": {"a": 26, "b": 26, "c": 58},
            "flops_per_epoch": EPOCH,
        },
        "stages": {"1024": ["a"], "256": ["b"], "9": ["c"]},
        "steps_per_epoch": STEPS,
        "settled_step": 52,
        "settings": {},
    }


def make_record(**changes):
    record = {
        "name": "grown",
        "method": "growing",
        "params": 303,
        "macs": OWN,
        "dataset": {"name": "some", "input_shape": [3, 32, 32]},
        "budget": {"limits": {"params": 311}, "costs": {"params": 303}, "met": True},
        "baseline": {"reference": {"params": 1000, "macs": DENSE, "training": training(8.0, 9.0, 7.0)}},
        "training": training(1.25, 2.5, 4.25),
        "finetuning": {"epochs": 0, "lr": 0.001},
        "trace": {"iterations": [], "growth": grown()},
    }
    return copy.deepcopy(record | changes)


def test_what_changed_at_the_settling_step_is_told_where_it_was_counted():
    record = make_record()
    assert "the last draw had all but" not in section_of(record)
    record["trace"]["growth"]["settled"] = {"channels": 1367, "added": 29, "removed": 0}
    told = " ".join(section_of(record).split())
    assert "Of the 1,367 channels that it keeps, the last draw had all but 29; it had 0 besides. Stepped lines" in told


def section_of(record):
    """The section as the page has it after its way through a file, whose keys are sorted."""
    page = render_html(json.loads(json.dumps(record, sort_keys=True)))
    found = re.findall(r"<section>\s*<h2>Growth</h2>.*?</section>", page, re.S)
    return re.sub(r"\s+", " ", found[0]) if found else None


def rows_of(section):
    rows = [re.findall(r"<t[hd].*?</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", section, re.S)]
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in row] for row in rows]


def row_of(section, title):
    (found,) = [row[1:] for row in rows_of(section) if row[0] == title]
    return found


def labels_of(section):
    """{heading of a chart: what its label says}."""
    charts = re.findall(r'<h3>(.*?)</h3>\s*<svg[^>]*aria-label="(.*?)"', section)
    return {title: html.unescape(label).split("; at the end: ")[1] for title, label in charts}


def line_of(record):
    (found,) = [line for line in summary_lines(record) if line.startswith("growth")]
    return found


def test_the_table_sums_the_epochs_and_compares_them_with_the_dense_network():
    section = section_of(make_record())
    assert rows_of(section)[0] == ["", "epochs", "training MFLOPs", "seconds"]
    assert row_of(section, "growth") == ["3", "2.178", "8.000"]
    assert row_of(section, "unscaled network") == ["3", "5.430", "24.00"]
    assert row_of(section, "savings") == ["", "2.49 ×", "3.00 ×"]
    told = "growth: 2.49x fewer training FLOPs and 3.00x less time than the unscaled network's 3 epochs"
    assert line_of(make_record()) == told
    assert "6 for every multiply-add" in section
    assert "with evaluation after every epoch" in section


def test_training_that_is_slower_is_told_so():
    record = make_record()
    record["baseline"]["reference"]["training"] = training(1.0, 1.0, 2.0)
    assert row_of(section_of(record), "savings")[2] == "0.500 ×"
    assert "2.49x fewer training FLOPs and 2.00x more time" in line_of(record)


def test_a_dense_network_that_was_not_trained_has_no_seconds():
    record = make_record(baseline={})
    section = section_of(record)
    assert row_of(section, "unscaled network") == ["3", "5.430", "not trained in this run"]
    assert row_of(section, "savings") == ["", "2.49 ×", "–"]
    assert line_of(record) == "growth: 2.49x fewer training FLOPs than the unscaled network's 3 epochs"
    assert "unscaled network" not in labels_of(section)["Training time"]


@pytest.mark.parametrize(
    ("finetuning", "title"),
    [(None, "training from scratch"), ({"epochs": 2, "lr": 0.001}, "fine-tuning")],
)
def test_what_is_trained_after_growth_comes_on_top(finetuning, title):
    record = make_record(finetuning=finetuning, training=training(0.75, 1.25))
    section = section_of(record)
    further = 2 * 6 * OWN * BATCH * STEPS
    assert row_of(section, title) == ["2", f"{further / 1e6:.4f}", "2.000"]
    assert row_of(section, "together") == ["5", f"{(sum(FLOPS) + further) / 1e6:.3f}", "10.00"]
    flops = 3 * EPOCH / (sum(FLOPS) + further)
    assert row_of(section, "savings") == ["", f"{flops:.2f} ×", "2.40 ×"]
    assert line_of(record).startswith(f"growth and {title}: {flops:.2f}x fewer training FLOPs and 2.40x less time")
    assert labels_of(section)["Training time"] == f"growth 4.25, {title} 1.25, unscaled network 7.00"


def test_weights_that_grew_are_not_counted_twice():
    titles = [row[0] for row in rows_of(section_of(make_record()))]
    assert titles[:4] == ["", "growth", "unscaled network", "savings"]


def test_stages_come_with_the_largest_maps_first_and_absent_channels_count_nothing():
    label = labels_of(section_of(make_record()))["Channels by size of map"]
    assert label == "32 × 32 50.0, 16 × 16 42.3, 3 × 3 50.0"  # of 26, 26 and 58 channels


def test_positions_of_a_text_are_no_maps():
    record = make_record(dataset={"name": "text", "input_shape": [35]})
    record["trace"]["growth"]["stages"] = {"35": ["a", "b"], "1": ["c"]}
    assert labels_of(section_of(record))["Channels by size of map"] == "35 positions 46.2, 1 position 50.0"


def test_size_ends_at_the_result_and_has_the_limits_of_the_budget():
    label = labels_of(section_of(make_record()))["Size of the network that trains"]
    assert label == "parameters 30.3 (limit 31.1), MACs 20.9"


def test_other_limits_are_drawn_where_the_unscaled_cost_is_known():
    record = make_record()
    record["budget"]["limits"] |= {"onnx_bytes": 5000, "latency_ms": 3.0}
    record["budget"]["costs"] |= {"onnx_bytes": 4000, "latency_ms": 2.0}
    for row in record["trace"]["growth"]["rounds"]:
        row |= {"onnx_bytes": 3000.0, "latency_ms": 1.0}
    record["baseline"]["reference"]["onnx_bytes"] = 10_000
    label = labels_of(section_of(record))["Size of the network that trains"]
    assert label.endswith("ONNX file 40.0 (limit 50.0)")
    record["latency_search"] = {"unscaled_ms": 8.0}
    assert "latency 25.0 (limit 37.5)" in labels_of(section_of(record))["Size of the network that trains"]


def test_units_are_shown_where_the_network_has_them():
    assert "Units by stage" not in labels_of(section_of(make_record()))
    record = make_record()
    rows = [{"second": 1, "first": 1}, {"second": 3, "first": 2}, {"second": 5, "first": 7}]
    record["trace"]["growth"] = grown(units=rows)
    section = section_of(record)
    assert labels_of(section)["Units by stage"] == "first 7.00, second 5.00"
    assert row_of(section, "3")[3] == "12"


def test_every_epoch_is_a_row():
    details = re.search(r"<details>.*?</details>", section_of(make_record()), re.S)[0]
    assert rows_of(details)[1:] == [
        ["1", "101", "31", "9", "17", "0", "1.000", "1.25"],
        ["2", "202", "307", "20", "18", "2", "0.8000", "2.50"],
        ["3", "303", "211", "53", "19", "4", "0.3778", "4.25"],
    ]


def test_the_epoch_from_which_the_structure_is_kept_is_told():
    assert "from epoch 2.26 on" in section_of(make_record())


def test_figures_fit_a_narrow_screen_and_have_ids_of_their_own():
    page = render_html(make_record())
    assert set(re.findall(r'viewBox="0 0 (\d+)', section_of(make_record()))) == {"344"}
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("trace", [None, {}, {"iterations": []}])
def test_runs_without_growth_have_no_section(trace):
    record = make_record(trace=trace)
    assert section_of(record) is None
    assert not any(line.startswith("growth") for line in summary_lines(record))


def test_a_network_that_grew_is_reported_as_it_was_trained(tmp_path):
    recipe = Recipe.model_validate(
        {
            "model": {"name": "mlp"},
            "data": {"name": "digits", "limit": 130},
            "budget": {"params": "0.3x"},
            "search": {"method": "growing", "steps_per_round": 2},
            "train": {"epochs": 3, "batch_size": 13},
            "baselines": ["reference"],
            "bench": {"runs": 5, "warmup": 1, "batch": 1},
            "device": "cpu",
        }
    )
    record = run(recipe, tmp_path / "run")
    growth, dense = record["trace"]["growth"], record["baseline"]["reference"]
    steps = growth["steps_per_epoch"]
    assert growth["reference"]["flops_per_epoch"] == 6 * dense["macs"] * 13 * steps
    assert growth["epochs"][-1]["flops"] == 6 * record["macs"] * 13 * steps  # settled before
    assert [row["seconds"] for row in growth["epochs"]] == [row["seconds"] for row in record["training"]]
    total = sum(row["flops"] for row in growth["epochs"])
    ratio = 3 * growth["reference"]["flops_per_epoch"] / total
    assert f"growth: {ratio:.2f}x fewer training FLOPs" in line_of(record)
    assert set(labels_of(section_of(record))) >= {"Channels by size of map", "Training cost", "Training time"}
