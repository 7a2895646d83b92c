"""The README says what the project does: its recipe, its commands and its numbers are checked against the files."""

import json
import re
import statistics
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from scipy.stats import ttest_ind

from compressor.cli.root import main
from compressor.recipe import load_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
README, RECIPES, RESULTS = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/recipes.md", "docs/results.md")
)


@pytest.mark.parametrize("page", [README, RECIPES], ids=["README", "recipes"])
def test_the_recipe_it_explains_is_the_shipped_one(page):
    block = page.split("```yaml")[1].split("```")[0]
    assert parse_recipe(yaml.safe_load(block)) == load_recipe(ROOT / "recipes" / "cifar10-vgg11.yaml")


def test_the_latency_budgets_it_shows_are_valid():
    shown = [line for line in RECIPES.split("```yaml")[2].split("```")[0].splitlines() if line]
    assert len(shown) == 2
    for line in shown:
        raw = {"model": "mlp", "data": "digits", "search": {"method": "uniform"}, **yaml.safe_load(line)}
        assert parse_recipe(raw).budget.names == ("latency_ms",)


def test_the_commands_it_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    listed = RECIPES.split("Other commands: ")[1].split("\n\n")[0]
    for command in re.findall(r"`(?:compressor )?([a-z |]+?)(?: [A-Z][\w.]*)?`", listed):
        for name in command.split(" | ") if "list" not in command else ["recipes"]:
            assert CliRunner().invoke(main, [name.strip(), "--help"]).exit_code == 0, name


def test_the_python_example_names_what_there_is():
    code = next(block for block in README.split("```python")[1:] if "import compressor" in block).split("```")[0]
    compile(code, "README", "exec")
    named = re.findall(r"compressor\.(\w+)\(", code)
    import compressor

    assert {"compress", "load"} <= set(named) <= set(compressor.__all__)


def numbers(name):
    return json.loads((ROOT / "experiments" / f"{name}.json").read_text(encoding="utf-8"))


def row(begin):
    """The cells of a row of the README's table, from the second on."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {begin}")]
    return [cell.strip() for cell in line.strip("| ").split(" | ")][1:]


def spread(values, digits=2):
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f} %"


def test_the_table_tells_what_budgets_of_size_gave():
    networks = numbers("cifar10_vgg11")["networks"]
    ours, beside = row("VGG11 × 0.25, CIFAR-10")
    assert spread(networks["neuralscale"]["accuracy_percent"]) in ours
    assert beside.startswith(f"uniform scaling {spread(networks['uniform']['accuracy_percent'])}")
    assert spread(networks["reference"]["accuracy_percent"]) in beside
    grown = numbers("growing_fresh")["runs"]
    ours, beside = row("VGG16 × 0.25 to 10 %")
    for cell, name in ((ours, "growing"), (beside, "uniform")):
        assert spread([one["accuracy_percent"] for one in grown[f"vgg16_bn params 0.1x {name}"]]) in cell
    rows = [one for one in numbers("onnx_accuracy")["rows"] if one["budget"] == "0.1x params"]
    labels, none = (
        [one["percent"] for one in rows if (one["method"], one["arm"]) == ("taylor", arm)]
        for arm in ("onnx", "onnx, no labels")
    )
    assert row("a trained VGG11")[0] == f"{spread(labels, 1)}; without labels {spread(none, 1)}"


def test_the_table_tells_how_right_the_gate_is():
    table = numbers("latency_gate")["table"]
    slower, same = ([table[f"vgg11/{batch}/{what}"] for batch in (1, 100)] for what in ("+3%", "A/A"))
    found, alarms = (sum(one["regression"] for one in rows) for rows in (slower, same))
    theirs, false = (sum(one["separate_alarms"] for one in rows) for rows in (slower, same))
    assert alarms == 0
    assert row("gate at 2 %") == [
        f"{found} found, no false alarm",
        f"two stored means 5 % apart: {theirs} found, {false} false alarms",
    ]
    full, quarter = numbers("pruning_speed_full"), numbers("pruning_speed")
    assert row("time of pruning VGG11, full width") == [
        f"{full['ratio']:.2f} of pruning by masks",
        f"torch-pruning {full['ratio_torch_pruning']:.2f}; at a quarter of the width {quarter['ratio']:.2f} and "
        f"{quarter['ratio_torch_pruning']:.2f}",
    ]


def test_the_table_tells_what_budgets_of_time_gave():
    cases = numbers("latency_budgets")["cases"].values()
    used = [100 * case["budget"]["used_of_limit_upper"] for case in cases]
    by_hand = [case["by_hand"]["params"]["used_of_limit"] for case in cases]
    ours, beside = row("twelve latency budgets")
    assert ours == f"all met, {min(used):.1f} to {max(used):.1f} % of the limit used"
    assert f"{min(by_hand):.2f} to {max(by_hand):.2f} times" in beside
    assert all(case["budget"]["verdict"] == "met" for case in cases)
    found = numbers("latency_fastnas")["results"]
    ratios = {
        who: [one["ratio"] for name, one in found.items() if name.startswith(begin)]
        for who, begin in (("ours", "ours"), ("theirs", "fastnas_latency"))
    }
    ours, beside = row("0.6× latency")
    assert ours == f"{min(ratios['ours']):.3f} to {max(ratios['ours']):.3f}"
    assert f"{min(ratios['theirs']):.3f} to {max(ratios['theirs']):.3f}" in beside
    rows = {one["method"]: one for one in numbers("tissuenet_cifar10_vgg16")["summary"] if "latency" in one["budget"]}
    for cell, name in zip(row("VGG16 × 0.25 at half"), ("tissuenet", "uniform"), strict=True):
        assert f"{100 * rows[name]['accuracy']:.2f} ± {100 * rows[name]['deviation']:.2f} %" in cell


@pytest.mark.parametrize("name", ["neuralscale", "uniform", "reference"])
def test_the_accuracies_are_those_that_were_measured(name):
    measured = json.loads((ROOT / "experiments" / "cifar10_vgg11.json").read_text())["networks"][name]
    accuracies = measured["accuracy_percent"]
    text = f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} %"
    assert text in RESULTS
    low, high = min(measured["params"]), max(measured["params"])
    assert (f"{low:,}" if low == high else f"{low:,} – {high:,}") in RESULTS


def test_the_gain_and_the_time_ratio_are_those_that_were_measured():
    gain = json.loads((ROOT / "experiments" / "cifar10_vgg11.json").read_text())
    assert f"{gain['gain_mean']:.1f} points ahead" in RESULTS
    full = json.loads((ROOT / "experiments" / "pruning_speed_full.json").read_text())
    quarter = json.loads((ROOT / "experiments" / "pruning_speed.json").read_text())
    shares = {"physical": f"**{full['ratio']:.2f}**", "torch_pruning": f"{full['ratio_torch_pruning']:.2f}"}
    for name, share in shares.items():
        seconds, speed = full["seconds"][name], full["steps_per_second"][name]
        assert f"| {seconds:.0f} s | {speed:.2f} | {share} |" in RESULTS
    assert full["events"] == 131
    assert f"**{quarter['ratio']:.2f}** of the masked time" in RESULTS


@pytest.mark.parametrize("name", ["neuralscale", "uniform"])
def test_the_headline_is_what_was_measured(name):
    found = numbers("headline")
    one = found["networks"][name]
    accuracies = one["accuracy_percent"]
    told = spread(accuracies) if len(accuracies) > 1 else f"{accuracies[0]:.2f} %"
    (line,) = [line for line in RESULTS.splitlines() if line.startswith(f"| `{name}` | 579,")]
    cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
    assert cells[3].strip("*") == told
    assert all(f"{value:,}" in cells[1] for value in (min(one["params"]), max(one["params"])))
    assert all(f"{value / 1e6:.1f}" in cells[2] for value in (min(one["macs"]), max(one["macs"])))
    assert all(f"{value:.1f}" in cells[4] for value in (min(one["latency_median_ms"]), max(one["latency_median_ms"])))
    assert f"The difference is {found['gain_mean']:.1f} points" in RESULTS
    assert told in " ".join(row("VGG11, full width"))


@pytest.mark.parametrize("network", ["preact_resnet18", "mobilenetv2"])
def test_whole_iterations_of_other_networks_took_what_was_measured(network):
    found = json.loads((ROOT / "experiments" / f"pruning_speed_whole_{network}.json").read_text())
    told, theirs = f"**{found['whole_ratio']:.2f}**", f"{found['whole_ratio_torch_pruning']:.2f}"
    title = {"preact_resnet18": "PreAct-ResNet-18", "mobilenetv2": "MobileNetV2"}[network]
    text = " ".join(RESULTS.split())
    after = text[text.index(f"{title} at half of its width: {told}") :][:90]
    assert theirs in after


def test_the_accuracy_at_equal_macs_is_that_which_was_measured():
    found = json.loads((ROOT / "experiments" / "cifar10_equal_macs.json").read_text())
    assert f"{found['accuracy_mean']:.2f} ± {found['accuracy_std']:.2f} %" in RESULTS
    assert all(row["macs"] <= row["limits"]["macs"] for row in found["seeds"])


def test_the_table_of_methods_is_what_was_measured():
    found = json.loads((ROOT / "experiments" / "cifar10_methods.json").read_text())
    assert len(found["groups"]) == 16
    for group in found["groups"]:
        accuracy, macs = group["accuracy"], group["macs"]["mean"]
        text = f"{100 * accuracy['mean']:.2f} ± {100 * accuracy['std']:.2f}"
        text = f"**{text}**" if group["best"] else text
        (row,) = [line for line in RESULTS.splitlines() if f"| {text} ({macs / 1e6:.2f} M) |" in line]
        assert row.startswith(f"| `{group['method'].partition(':')[0]}` |") or group["method"] == "unscaled"
        assert len(group["seeds"]) == 3


def test_the_latency_budgets_are_those_that_were_measured():
    found = json.loads((ROOT / "experiments" / "latency_budgets.json").read_text())
    names = {"vgg11": "VGG11", "mobilenet_v2": "MobileNetV2"}
    assert len(found["cases"]) == 12
    for case, told in found["cases"].items():
        name, batch, share = case.split("/")
        own, hand = told["budget"], told["by_hand"]
        cells = [f"{names[name]}, batch {batch}", share.replace("x", "×"), f"{100 * own['used_of_limit']:.1f} %"]
        cells += [f"{100 * own['used_of_limit_upper']:.1f} %", own["verdict"], f"{own['search_seconds']:.0f} s"]
        cells += [f"{hand[cost]['used_of_limit']:.2f}×" for cost in ("params", "macs")]
        assert f"| {' | '.join(cells)} |" in RESULTS
    steps = found["mobilenet_v2_half_params_in_steps"]
    for batch in ("1", "100"):
        assert " / ".join(f"{steps[batch][step]:.2f}" for step in ("1", "4", "8")) in RESULTS


def test_the_gate_is_as_right_as_was_measured():
    table = json.loads((ROOT / "experiments" / "latency_gate.json").read_text())["table"]
    for slowdown in ("A/A", "+3%", "+6%", "+12%"):
        rows = [table[f"vgg11/{batch}/{slowdown}"] for batch in (1, 100)]
        alarms = [f"{row['regression']} of {row['trials']} ({row['inconclusive']} inconclusive)" for row in rows]
        cells = [f"{told}, {row['seconds_median']:.1f} s" for told, row in zip(alarms, rows, strict=True)]
        assert f"| {' | '.join(cells)} |" in RESULTS


def test_the_peer_is_told_as_it_was_measured():
    found = json.loads((ROOT / "experiments" / "latency_fastnas.json").read_text())["results"]
    sides = {name.split("/")[0] for name in found}
    assert len(sides) == 4
    for side in sides:
        rows = [row for name, row in sorted(found.items()) if name.split("/")[0] == side]
        assert len(rows) == 3
        ratios = ", ".join(f"{row['ratio']:.3f}" for row in rows)
        over = ", ".join(f"{100 * (row['ratio'] / 0.6 - 1):+.0f}" for row in rows)
        taken = [round(row["search_seconds"]) for row in rows]
        seconds = " to ".join(str(one) for one in sorted({min(taken), max(taken)}))
        accuracies = ", ".join(f"{100 * row['accuracy']:.1f}" for row in rows)
        assert f"| {ratios} ({over} %) | {seconds} s | {accuracies} % |" in RESULTS


def test_the_growing_results_are_the_experiments_numbers():
    text = RESULTS.split("## Growing")[1].split("## ")[0] + (ROOT / "docs" / "growing.md").read_text(encoding="utf-8")
    time, layers, budgets = (
        json.loads((ROOT / "experiments" / f"growing_{name}.json").read_text())
        for name in ("time", "layers", "budgets")
    )
    for share in ("0.05x", "0.1x"):
        assert f"| {time[share]['time_ratio']:.2f} | {time[share]['flops_ratio']:.3f} |" in text
    for model in ("basic3resnet", "plain3net"):
        for method in ("growing", "uniform"):
            assert f"{layers['summary'][f'{model} of 6 units 0.1x {method}']['accuracy_mean']:.1f}" in text
    used = [row["least_used"] for row in budgets["summary"].values()]
    assert len(used) == 12
    assert f"{100 * min(used):.2f} % used" in text


@pytest.mark.parametrize("budget", ["params", "macs"])
def test_growing_on_seeds_that_chose_nothing_is_as_measured(budget):
    runs = json.loads((ROOT / "experiments" / "growing_fresh.json").read_text())["runs"]
    growing, uniform = (runs[f"vgg16_bn {budget} 0.1x {name}"] for name in ("growing", "uniform"))
    assert [row["seed"] for row in growing] == [row["seed"] for row in uniform] == [30, 31, 32, 33, 34]
    text = " ".join(RESULTS.split("## Growing")[1].split("## ")[0].split())
    found = [[row["accuracy_percent"] for row in rows] for rows in (growing, uniform)]
    accuracies = [f"{statistics.mean(one):.2f} ± {statistics.stdev(one):.2f}" for one in found]
    p = ttest_ind(*found, equal_var=False).pvalue
    told = {
        "params": f"growing has {accuracies[0]} %, uniform scaling {accuracies[1]} % (Welch p {p:.1g})",
        "macs": f"to 10 % of the multiply-adds {accuracies[0]} and {accuracies[1]} % (p {p:.2f})",
    }
    assert told[budget] in text
    share = statistics.mean(row["training_flops_share"] for row in growing)
    assert f"{share:.2f}" in text.split("training FLOPs")[0].rsplit("takes", 1)[1]
    for row in growing:
        settled = row["settled"]
        assert settled["added"] + settled["removed"] < 0.05 * settled["channels"]


def test_growing_beside_its_baselines_is_told_as_it_was_measured():
    page = (ROOT / "docs" / "growing.md").read_text(encoding="utf-8")
    table = page.split("## Against its baselines\n")[1].split("## ")[0]
    runs = json.loads((ROOT / "experiments" / "growing_fresh.json").read_text())["runs"]
    for name, rows in runs.items():
        if name.startswith("vgg16_bn"):
            found = [row["accuracy_percent"] for row in rows]
            told = f"{statistics.mean(found):.2f}" + (f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else "")
            (line,) = [line for line in table.splitlines() if line.startswith(f"| {name.split('0.1x ')[1]} |")]
            assert f"| {told} |" in line


def test_growing_a_language_model_is_told_as_it_was_measured():
    page = " ".join((ROOT / "docs" / "growing.md").read_text(encoding="utf-8").split("**Language.**")[1].split())
    rows = json.loads((ROOT / "experiments" / "growing_lstm.json").read_text())["rows"]
    uniform, growing = ({row["method"]: row for row in rows}[name] for name in ("uniform", "growing"))
    assert f"perplexity {growing['perplexity']:.1f}, uniformly scaled {uniform['perplexity']:.1f}" in page
    assert growing["widths"] == uniform["widths"]


@pytest.mark.parametrize("method", ["uniform", "neuralscale", "growing"])
def test_two_processes_are_told_as_they_were_measured(method):
    page = (ROOT / "docs" / "torchrun.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith(f"| `{method}` |")]
    found = numbers("torchrun")["summary"][method]
    for line, arm in zip(lines, ("one", "two", "two, sync_batch_norm"), strict=True):
        told = found[arm]
        assert f"| {told['accuracy_mean']:.2f} ± {told['accuracy_std']:.2f} % |" in line
        assert line.endswith(
            f"| {told['same_widths']} of 3 | {told['apart_same_seed']:.2f} | {told['apart_other_seeds']:.2f} |"
        )
        assert told["met"]
        assert told["p_beside_one"] is None or told["p_beside_one"] > 0.05


TISSUE = (ROOT / "docs" / "tissuenet.md").read_text(encoding="utf-8")


def test_the_counts_beside_the_papers_tables_are_those_counted():
    rows = json.loads((ROOT / "experiments" / "tissuenet_counts.json").read_text())["rows"]
    assert len(rows) == 25
    for row in rows:
        digits = 4 if row["paper_params"] < 1e6 else 2
        told = f"{row['params'] / 1e6:.{digits}f} ({row['paper_params'] / 1e6:.{digits}f})"
        (line,) = [line for line in TISSUE.splitlines() if line.startswith(f"| {row['table']} | {row['name']} |")]
        assert f"| {told} | {row['params_ratio']:.3f} |" in line
        assert line.endswith(f"| {row['units'] or '–'} |")


def test_the_latency_of_stacked_layers_is_that_measured():
    rows = json.loads((ROOT / "experiments" / "stacked_latency.json").read_text())["rows"]
    assert len(rows) == 15
    for row in rows:
        times = [f"{row[form]:.2f}" for form in ("grouped", "blocks", "dense", "normal pair")]
        assert f"| {row['channels']}, {row['side']} | {row['k']} | {' | '.join(times)} |" in TISSUE


def test_fashion_mnist_is_told_as_it_was_measured():
    rows = json.loads((ROOT / "experiments" / "tissuenet_fashion.json").read_text())["summary"]
    assert len(rows) == 10
    for row in rows:
        (line,) = [line for line in TISSUE.splitlines() if line.startswith(f"| {row['name']} |")]
        assert f"| {100 * row['accuracy']:.2f} ± {100 * row['deviation']:.2f} |" in line
        if row["ce"] is not None:
            assert line.endswith(f"| {row['ce']:.2f} | {row['se']:.2f} |")


@pytest.mark.parametrize("network", ["vgg16", "resnet18"])
def test_stacked_networks_on_cifar10_are_told_as_they_were_measured(network):
    rows = json.loads((ROOT / "experiments" / f"tissuenet_cifar10_{network}.json").read_text())["summary"]
    assert {row["method"] for row in rows} == {"unscaled", "uniform", "neuralscale", "tissuenet"}
    for row in rows:
        deviation = f" ± {100 * row['deviation']:.2f}" if row["deviation"] is not None else ""
        told = f"{100 * row['accuracy']:.2f}{deviation}"
        lines = [line for line in TISSUE.splitlines() if f"| {row['method']} |" in line and told in line]
        assert any(f"| {row['seeds']} |" in line for line in lines)
        if network == "vgg16" and row["method"] != "unscaled":
            assert f"{told} %" in RESULTS


@pytest.mark.parametrize("network", ["vgg11", "resnet20", "mobilenetv2"])
def test_the_precisions_are_those_that_were_measured(network):
    rows = json.loads((ROOT / "experiments" / "precision_files.json").read_text())["rows"]
    title = {"vgg11": "VGG11 × 0.5", "resnet20": "ResNet-20", "mobilenetv2": "MobileNetV2 × 0.5"}[network]
    found = [row["files"] for row in rows if row["network"] == network]
    assert len(found) == 3
    for name in found[0]:
        files = [row[name] for row in found]
        percents = [file["percent"] for file in files]
        accuracy = f"{statistics.mean(percents):.2f} ± {statistics.stdev(percents):.2f} %"
        ratios = [f"{statistics.mean(file['ratio'][batch][0] for file in files):.2f}" for batch in ("1", "100")]
        size = round(statistics.mean(file["onnx_bytes"] for file in files))
        assert f"| {title} | {name} | {size:,} | {accuracy} | {ratios[0]} | {ratios[1]} |" in RESULTS


def test_further_networks_and_budgets_are_those_that_were_measured():
    rows = json.loads((ROOT / "experiments" / "along.json").read_text())["rows"]
    names = {"VGG11": "vgg11", "PreAct-ResNet-18": "preact_resnet18", "MobileNetV2 × 0.5": "mobilenetv2"}
    budgets = {
        "0.1× multiply-adds": "macs",
        "0.25× multiply-adds": "macs quarter",
        "0.5× latency, batch 100": "latency 100",
    }
    table = RESULTS[RESULTS.index("| one seed (10) |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 7
    for line in table:
        title, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        network, budget = title.split(", ", 1)
        for arm, cell in zip(("uniform", "along", "paper", "auto"), cells, strict=True):
            key = (names[network], budgets[budget], arm, 10)
            found = [row for row in rows if (row["network"], row["budget"], row["arm"], row["seed"]) == key]
            assert cell == (f"{found[0]['percent']:.2f}" if found else "not measured")
            assert all(row.get("verdict", "met") == "met" for row in found)


def test_the_budgets_of_int8_are_those_that_were_measured():
    rows = json.loads((ROOT / "experiments" / "precision_budgets.json").read_text())["rows"]
    found = {row["network"]: row for row in rows}
    ratio, low, high = found["vgg11"]["searched with int8"]["ratio"]
    text = " ".join(RESULTS.split())
    assert f"takes {ratio:.3f} ({low:.3f} to {high:.3f})" in text
    assert f"with float32 files {found['vgg11']['searched with fp32']['ratio'][0]:.3f} in int8" in text
    for network in ("resnet20", "mobilenetv2"):
        assert "cannot be met" in found[network]["searched with int8"]["refused"]


def test_preprocessing_is_as_it_was_measured():
    rows = json.loads((ROOT / "experiments" / "precision_preprocessing.json").read_text())["rows"]
    small, large, cost = (next(row for row in rows if row["size"] == size) for size in (24, 48, None))
    text = " ".join(RESULTS.split())
    assert f"to {small['mean_grey_levels']:.2f} grey levels" in text
    assert f"24 × 24 ({small['largest_grey_levels']:.1f} at most)" in text
    assert f"to {large['mean_grey_levels']:.2f} ({large['largest_grey_levels']:.1f})" in text
    inside = [one for name, one in cost["latency"].items() if not name.endswith("none")]
    assert all(0.005 < one["1"][0] - 1 < 0.015 and 0.005 < one["100"][0] - 1 < 0.045 for one in inside)


@pytest.mark.parametrize(
    ("budget", "title"),
    [
        ("0.1x params", "0.1× parameters"),
        ("0.25x params", "0.25× parameters"),
        ("0.5x latency", "0.5× latency, batch 1"),
    ],
)
def test_the_onnx_files_are_those_that_were_compressed(budget, title):
    rows = json.loads((ROOT / "experiments" / "onnx_accuracy.json").read_text())["rows"]
    line = next(line for line in RESULTS.splitlines() if line.startswith(f"| {title} |"))
    for arm, cell in zip(("onnx", "onnx, no labels"), line.split("|")[3:5], strict=True):
        found = [r["percent"] for r in rows if (r["budget"], r["method"], r["arm"]) == (budget, "taylor", arm)]
        assert len(found) == 3
        assert cell.strip() == f"{statistics.mean(found):.1f} ± {statistics.stdev(found):.1f} %"


def test_the_times_in_olive_are_those_that_were_measured():
    measured = json.loads((ROOT / "experiments" / "olive_time.json").read_text())
    text = " ".join((ROOT / "docs" / "olive.md").read_text(encoding="utf-8").split())
    medians = measured["median"]
    assert f"{medians['compressor run']:.1f} s by `compressor run` and {medians['olive run']:.1f} s" in text
    assert f"{measured['ratio']:.2f} times as long" in text
    assert measured["params"]["olive run"] == measured["params"]["compressor run"]


def test_the_removals_are_those_that_were_measured():
    rows = json.loads((ROOT / "experiments" / "removal_engines.json").read_text())["rows"]
    assert all(row["bitwise_equal"] for row in rows.values())
    whole = sum(row["by_torch_pruning"] == row["groups"] for row in rows.values())
    text = " ".join(RESULTS.split())
    assert f"Of {len(rows)} networks, torch-pruning removes the channels of every width group" in text
    assert f"that can lose some in {whole};" in text
    assert f"all {len(rows)} networks were equal to the last bit" in text
    table = RESULTS.split("## Removing channels")[1].split("## ")[0]
    shown = re.findall(r"^\| (\w+) \| (\d+) of (\d+) \| (\d+) ms \| (\d+) ms \|$", table, re.MULTILINE)
    assert len(shown) == 7
    for name, theirs, groups, fast, slow in shown:
        row = next(row for key, row in rows.items() if key.split(":")[-1] == name)
        assert (int(theirs), int(groups)) == (row["by_torch_pruning"], row["groups"])
        assert (int(fast), int(slow)) == (round(row["event_ms"]), round(row["event_ms_tracer"]))
    assert max(rows[key]["ratio"] for key in ("vgg11_bn", "torchvision:resnet18")) <= 1.5


def test_what_groups_at_their_minimum_change_is_what_was_measured():
    found = json.loads((ROOT / "experiments" / "pruning_records.json").read_text())
    (skip, stop), (skip_std, stop_std) = found["accuracy"]["mean"], found["accuracy"]["std"]
    text = " ".join(RESULTS.split())
    assert f"({skip:.2f} ± {skip_std:.2f} against {stop:.2f} ± {stop_std:.2f} %, three seeds" in text
    assert f"Welch p {found['accuracy']['welch_p']:.2f}" in text
    rows = {setting: found["rows"][f"resnet20 {setting} seed 0 epochs 1"] for setting in ("skip", "stop")}
    assert f"after {rows['stop']['events'][0]} events with too few records" in text
    assert rows["stop"]["fallbacks"][0]
    assert f"now ends after {rows['skip']['events'][0]}" in text
    assert rows["skip"]["fallbacks"] == [None]
