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


def test_the_gains_and_the_time_ratio_are_those_that_were_measured():
    assert f"{numbers('cifar10_vgg11')['gain_mean']:.1f} points ahead" in RESULTS
    headline = numbers("headline")
    least, most = (f"{points:.1f}" for points in sorted(headline["gain_points"]))
    assert f"The difference is {headline['gain_mean']:.1f} points ({least} and {most})" in RESULTS
    assert numbers("pruning_speed_full")["events"] == 131
    assert f"**{numbers('pruning_speed')['ratio']:.2f}** of the masked time" in RESULTS


@pytest.mark.parametrize("network", ["preact_resnet18", "mobilenetv2"])
def test_whole_iterations_of_other_networks_took_what_was_measured(network):
    found = json.loads((ROOT / "experiments" / f"pruning_speed_whole_{network}.json").read_text())
    told, theirs = f"**{found['whole_ratio']:.2f}**", f"{found['whole_ratio_torch_pruning']:.2f}"
    title = {"preact_resnet18": "PreAct-ResNet-18", "mobilenetv2": "MobileNetV2"}[network]
    text = " ".join(RESULTS.split())
    after = text[text.index(f"{title} at half of its width: {told}") :][:90]
    assert theirs in after


def test_a_whole_iteration_took_what_was_measured():
    found, text = numbers("pruning_speed_whole"), " ".join(RESULTS.split())
    shares = [
        f"{found[name]:.2f}" for name in ("whole_ratio", "whole_ratio_torch_pruning", "ratio", "ratio_torch_pruning")
    ]
    assert (
        "ours takes **{}** of the masked time, torch-pruning's pruner {}, of the pruning alone {} and {}:".format(
            *shares
        )
        in text
    )


def test_the_accuracy_at_equal_macs_is_that_which_was_measured():
    found = numbers("cifar10_equal_macs")
    assert f"{found['accuracy_mean']:.2f} ± {found['accuracy_std']:.2f} %" in RESULTS
    assert all(row["macs"] <= row["limits"]["macs"] for row in found["seeds"])


def test_what_growing_won_in_the_quickstart_is_what_was_measured():
    percent = numbers("quickstart")["summary"]["percent"]
    grown = [one for one, other in zip(percent["result"], percent["uniform"], strict=True) if one != other]
    assert len(grown) == 4
    (uniform,) = set(percent["result"]) - set(grown)
    told = f"{min(grown):.1f} to {max(grown):.1f} %"
    growing = (ROOT / "docs" / "growing.md").read_text(encoding="utf-8")
    assert f"uniform scaling with {uniform:.1f} %, grown networks had {told}" in " ".join(RESULTS.split())
    spread = f"{statistics.mean(percent['result']):.1f} ± {statistics.stdev(percent['result']):.1f} %"
    assert f"mIoU {spread} ({told} where it won, {uniform:.1f} % where" in " ".join(growing.split())


def test_a_detector_takes_what_was_measured():
    found = numbers("ssdlite")
    text = " ".join((ROOT / "docs" / "your-network.md").read_text(encoding="utf-8").split())
    assert "file takes {:.1f} ms where the whole one takes {:.1f}".format(*found["median_ms"]) in text
    assert found["met"]


def test_kept_weights_gain_what_was_measured():
    percent = {}
    for row in numbers("kept_weights")["rows"]:
        percent.setdefault((row["network"], row["budget"], row["method"]), {}).setdefault(row["arm"], []).append(
            row["percent"]
        )
    gains = [statistics.mean(arms["kept"]) - statistics.mean(arms["fresh"]) for arms in percent.values()]
    assert len(gains) == 11
    longer = [statistics.mean(arms["kept"]) - statistics.mean(arms["fresh, 20 epochs"]) for arms in percent.values()]
    text = " ".join(README.replace("−", "-").split())
    assert f"{min(gains):.1f} to {max(gains):.1f} points over training the same widths anew" in text
    told = f"for twice as many {min(longer):.1f} to {max(longer):+.1f}"
    measured = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    (state,) = re.findall(r"\| kept_weights\.json \| \S+ \| (.+?) \|", measured)
    assert f"{told}{'' if state.startswith('same') else ' †'} ([measured]" in text


def test_one_search_is_ahead_of_uniform_scaling_beyond_noise_and_one_behind():
    """Of classifiers from fresh weights, under multiply-adds or milliseconds, as the README says."""
    pairs = []
    runs = numbers("growing_fresh")["runs"]
    percent = {name: [row["accuracy_percent"] for row in rows] for name, rows in runs.items()}
    for arm in ("growing", "growing, returns 6", "random", "direct design"):
        pairs.append((percent[f"vgg16_bn macs 0.1x {arm}"], percent["vgg16_bn macs 0.1x uniform"]))
    fresh = {}
    for row in numbers("kept_weights")["rows"]:
        if (row["network"], row["budget"], row["arm"]) == ("vgg11", "0.25x macs", "fresh"):
            fresh.setdefault(row["method"], []).append(row["percent"])
    pairs += [(fresh[method], fresh["uniform"]) for method in ("neuralscale", "taylor")]
    for network in ("vgg16", "resnet18"):
        found = {}
        for row in numbers(f"tissuenet_cifar10_{network}")["rows"]:
            found.setdefault((row["budget"], row["method"]), []).append(row["accuracy"])
        for (budget, method), values in found.items():
            if method not in ("uniform", "unscaled") and ("macs" in budget or "latency" in budget):
                pairs.append((values, found[budget, "uniform"]))
    found = {}
    for row in numbers("along")["rows"]:
        if row["seed"] >= 10 and (row["budget"] == "macs" or row["budget"] == "latency 100"):
            found.setdefault((row["network"], row["budget"], row["arm"]), []).append(row["percent"])
    for (network, budget, arm), values in found.items():
        base = found[network, budget, "uniform"]
        if arm != "uniform" and min(len(values), len(base)) > 1:
            pairs.append((values, base))
    beyond = [one for one in pairs if ttest_ind(*one, equal_var=False).pvalue < 0.05]
    ahead = [one for one in beyond if statistics.mean(one[0]) > statistics.mean(one[1])]
    assert len(pairs) >= 12
    assert (len(ahead), len(beyond) - len(ahead)) == (1, 1)
    ((own, base),) = ahead
    gap, p = 100 * (statistics.mean(own) - statistics.mean(base)), ttest_ind(own, base, equal_var=False).pvalue
    assert f"(`neuralscale`, ResNet-18 × 0.25, {gap:+.1f} points, p {p:.2f}), one behind." in " ".join(README.split())


def test_growing_takes_the_time_that_was_measured():
    taken = [numbers("growing_time")[share]["time_ratio"] for share in ("0.05x", "0.1x")]
    told = f"took {taken[0]:.2f} and {taken[1]:.2f} of the time of training it dense"
    assert told in " ".join(RESULTS.split())


def test_widths_of_whole_iterations_differ_as_was_measured():
    for network in ("preact_resnet18", "mobilenetv2"):
        found = numbers(f"pruning_speed_whole_{network}")["widths_at_a_quarter"]
        apart = [abs(own / masked - 1) for own, masked in zip(found["physical"], found["masked"], strict=True)]
        told = f"widths differ by {100 * min(apart):.0f} to {100 * max(apart):.0f} %."
        assert told in " ".join(RESULTS.split()), network


def test_what_survives_pruning_is_what_was_measured():
    text = " ".join(RESULTS.split())
    shares = [numbers(name) for name in ("pruning_speed", "pruning_speed_full")]
    own, peer = ([found[key] for found in shares] for key in ("mean_macs_share", "mean_macs_share_torch_pruning"))
    assert f"{own[0]:.2f} of the multiply-adds survive in ours and {peer[0]:.2f} in torch-pruning's" in text
    assert f"at the full width it is {own[1]:.2f} and {peer[1]:.2f}." in text


def test_random_widths_are_worth_what_was_measured():
    case = ("vgg11", "macs", 0)
    rows = [row for row in numbers("along")["rows"] if (row["network"], row["budget"], row["seed"]) == case]
    (uniform,) = (row["percent"] for row in rows if row["arm"] == "uniform")
    random = [row["percent"] for row in rows if row["arm"].startswith("random")]
    assert len(random) == 16
    told = f"sixteen random allocations of the multiply-adds, in the same blocks, gave {min(random):.1f} to"
    assert f"{told} {max(random):.1f} % (one seed; uniform {uniform:.1f} %)" in " ".join(RESULTS.split())


def test_what_is_said_of_every_row_holds_of_every_row():
    assert all(row.get("verdict", "met") == "met" for row in numbers("along")["rows"])
    peer = [row["ratio"] for name, row in numbers("latency_fastnas")["results"].items() if "fastnas_latency" in name]
    assert len(peer) == 3
    assert min(peer) > 0.6


def test_the_model_of_layers_errs_as_it_was_measured():
    errors = [row["leave_one_out"] for row in numbers("latency_model")["rows"]]
    over = sorted(100 * largest for _, largest in errors if largest > 0.15)
    text = " ".join(RESULTS.split())
    assert max(median for median, _ in errors) <= 0.05
    assert len(over) == 3
    assert f"at batch 100 are not ({over[0]:.1f} to {over[-1]:.1f} %)" in text


def test_the_harness_adds_what_was_measured():
    found = numbers("latency_harness")["summary"]
    text = " ".join(RESULTS.split())
    for begin, column, end in (
        ("reports is ", "sample_mean_wall", " longer"),
        ("as a whole ", "loop_wall_turns", ", most"),
        ("same runs tells ", "clock_over_model_run", " less"),
    ):
        large, small = (f"{100 * (found[network][column][0] - 1):.1f} %" for network in ("resnet20", "vgg11"))
        assert f"{begin}{large} ({small}){end}" in text


def test_the_gate_and_the_budgets_hold_what_the_pages_promise():
    gate = numbers("latency_gate")["table"]
    assert sum(gate[f"vgg11/{batch}/A/A"]["regression"] for batch in (1, 100)) == 0
    assert all(case["budget"]["verdict"] == "met" for case in numbers("latency_budgets")["cases"].values())


def test_experiments_have_all_rows_and_seeds_that_the_pages_name():
    methods = numbers("cifar10_methods")["groups"]
    assert len(methods) == 16
    assert all(len(group["seeds"]) == 3 for group in methods)
    assert len(numbers("tissuenet_counts")["rows"]) == 25
    assert len(numbers("stacked_latency")["rows"]) == 15
    assert len(numbers("tissuenet_fashion")["summary"]) == 10
    precisions = [row["network"] for row in numbers("precision_files")["rows"]]
    assert [precisions.count(name) for name in ("vgg11", "resnet20", "mobilenetv2")] == [3, 3, 3]
    files = [(row["budget"], row["arm"]) for row in numbers("onnx_accuracy")["rows"] if row["method"] == "taylor"]
    for budget in ("0.1x params", "0.25x params", "0.5x latency"):
        assert [files.count((budget, arm)) for arm in ("onnx", "onnx, no labels")] == [3, 3]
    peers = [name.split("/")[0] for name in numbers("latency_fastnas")["results"]]
    assert sorted(map(peers.count, set(peers))) == [3, 3, 3, 3]
    stacked = {row["method"] for row in numbers("tissuenet_cifar10_resnet18")["summary"]}
    assert stacked == {"unscaled", "uniform", "neuralscale", "tissuenet"}
    growing = numbers("growing_lstm")["rows"]
    assert {row["method"] for row in growing} == {"uniform", "growing"}


def test_widths_in_steps_take_what_was_measured():
    found = numbers("latency_budgets")
    assert len(found["cases"]) == 12
    steps = found["mobilenet_v2_half_params_in_steps"]
    for batch in ("1", "100"):
        assert " / ".join(f"{steps[batch][step]:.2f}" for step in ("1", "4", "8")) in RESULTS


def test_two_processes_differ_from_one_by_no_more_than_noise():
    for arms in numbers("torchrun")["summary"].values():
        assert all(arm["met"] for arm in arms.values())
        assert all(arm["p_beside_one"] is None or arm["p_beside_one"] > 0.05 for arm in arms.values())


def test_the_growing_results_are_the_experiments_numbers():
    text = RESULTS.split("## Growing")[1].split("## ")[0] + (ROOT / "docs" / "growing.md").read_text(encoding="utf-8")
    layers, budgets = numbers("growing_layers"), numbers("growing_budgets")
    for model in ("basic3resnet", "plain3net"):
        for method in ("growing", "uniform"):
            assert f"{layers['summary'][f'{model} of 6 units 0.1x {method}']['accuracy_mean']:.1f}" in text
    used = [row["least_used"] for row in budgets["summary"].values()]
    assert len(used) == 12
    assert f"{100 * min(used):.2f} % used" in text


@pytest.mark.parametrize("budget", ["params", "macs"])
def test_growing_on_seeds_that_chose_nothing_is_as_measured(budget):
    runs = numbers("growing_fresh")["runs"]
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


def test_what_growing_is_beside_its_baselines_is_told_as_it_was_measured():
    page = " ".join(
        (ROOT / "docs" / "growing.md").read_text(encoding="utf-8").split("## Against its baselines")[1].split()
    )
    runs = numbers("growing_fresh")["runs"]

    def beside(budget, one, other):
        found = [[row["accuracy_percent"] for row in runs[f"vgg16_bn {budget} 0.1x {name}"]] for name in (one, other)]
        return abs(statistics.mean(found[0]) - statistics.mean(found[1])), ttest_ind(*found, equal_var=False).pvalue

    ahead, random = (beside("params", "growing", name) for name in ("uniform", "random"))
    assert f"by six points (Welch p {ahead[1]:.0e} and {random[1]:.0e};".replace("e-0", "e-") in page
    assert round(ahead[0]) == round(random[0]) == 6
    behind, less = (beside("macs", name, "uniform") for name in ("growing", "growing, returns 6"))
    assert (
        f"{behind[0]:.1f} points behind uniform scaling (p {behind[1]:.2f}; with ρ = 6 {less[0]:.1f}, p {less[1]:.2f})"
        in page
    )
    direct = [beside(budget, "direct design", "growing") for budget in ("params", "macs")]
    assert f"is {direct[0][0]:.1f} points ahead of it under parameters (p {direct[0][1]:.3f})" in page
    assert f"{direct[1][0]:.1f} under multiply-adds (p {direct[1][1]:.2f})" in page


def test_the_papers_mlp_is_told_as_it_was_measured():
    percent = {}
    for row in numbers("tissuenet_fashion")["rows"]:
        percent.setdefault(row["name"], []).append(100 * row["accuracy"]["onnx"])
    stacked, whole = percent["mlp tissuenet k = 4"], percent["mlp unscaled"]
    told = [f"{statistics.mean(one):.2f} ± {statistics.stdev(one):.2f} %" for one in (stacked, whole)]
    text = " ".join(RESULTS.split())
    assert f"The paper's MLP on Fashion-MNIST: {told[0]} with" in text
    assert f"the unscaled one's {told[1]} (CE" in text
    page = " ".join((ROOT / "docs" / "tissuenet.md").read_text(encoding="utf-8").split())
    for one, other, form in (
        (
            stacked,
            percent["mlp uniform"],
            "uniform scaling is {0:.1f} points behind, within the seeds' noise (p {3:.2f})",
        ),
        (percent["lenet hybrid 1:1:1"], percent["lenet single middle (2, 4, 2)"], "{1:.2f} and {2:.2f} % (p {3:.2f})"),
    ):
        means = statistics.mean(one), statistics.mean(other)
        assert form.format(means[0] - means[1], *means, ttest_ind(one, other, equal_var=False).pvalue) in page


def test_growing_a_language_model_is_told_as_it_was_measured():
    page = " ".join((ROOT / "docs" / "growing.md").read_text(encoding="utf-8").split("**Language.**")[1].split())
    rows = numbers("growing_lstm")["rows"]
    uniform, growing = ({row["method"]: row for row in rows}[name] for name in ("uniform", "growing"))
    assert f"perplexity {growing['perplexity']:.1f}, uniformly scaled {uniform['perplexity']:.1f}" in page
    assert growing["widths"] == uniform["widths"]


def test_stacked_networks_on_cifar10_are_told_as_they_were_measured():
    rows = numbers("tissuenet_cifar10_vgg16")["summary"]
    assert {row["method"] for row in rows} == {"unscaled", "uniform", "neuralscale", "tissuenet"}
    for row in rows:
        assert f"{100 * row['accuracy']:.2f} ± {100 * row['deviation']:.2f} %" in RESULTS


def test_the_budgets_of_int8_are_those_that_were_measured():
    rows = numbers("precision_budgets")["rows"]
    found = {row["network"]: row for row in rows}
    ratio, low, high = found["vgg11"]["searched with int8"]["ratio"]
    text = " ".join(RESULTS.split())
    assert f"takes {ratio:.3f} ({low:.3f} to {high:.3f})" in text
    assert f"with float32 files {found['vgg11']['searched with fp32']['ratio'][0]:.3f} in int8" in text
    least = []
    for network in ("resnet20", "mobilenetv2"):
        refused = found[network]["searched with int8"]["refused"]
        assert "cannot be met" in refused
        limit, cost = re.findall(r"([\d.]+) ms", refused)
        least.append(0.3 * float(cost) / float(limit))
        assert "ratio" in found[network]["searched with fp32"]
    assert f"takes {least[0]:.2f} and {least[1]:.2f} of the unscaled file's time; in float32 both meet 0.3×." in text


def test_files_that_were_converted_or_refused_are_as_many_as_were_measured():
    text = " ".join((ROOT / "docs" / "onnx.md").read_text(encoding="utf-8").split())
    operators = numbers("onnx_operators")
    counts = operators["tests"]
    of_python = sum(count for reason, count in operators["refused"].items() if reason.split(":")[0].endswith("Error"))
    told = f"{counts['passed']:,} pass ({len(operators['operators'])} operators), {counts['refused'] - of_python} are"
    assert f"Of the {sum(counts.values()):,} tests" in text
    assert f"{told} refused with a reason, {of_python} fail as their inputs have no axes" in text
    assert f"{counts['differs']} differ from the standard" in text
    fuzz = numbers("onnx_fuzz")
    compared = sum(count for reason, count in fuzz["refused"].items() if "differs by" in reason)
    assert not fuzz["wrong"]
    assert f"{fuzz['graphs']['passed']:,} are converted and computed alike" in text
    assert f"{fuzz['graphs']['refused']} are refused in a sentence ({compared} of them since the comparison" in text
    files = [row for row in numbers("onnx_networks")["rows"] if "exported" not in row]
    assert all("failed" not in row for row in files)
    assert f"{len(files)} files in all" in text


def test_preprocessing_is_as_it_was_measured():
    rows = numbers("precision_preprocessing")["rows"]
    small, large, cost = (next(row for row in rows if row["size"] == size) for size in (24, 48, None))
    text = " ".join(RESULTS.split())
    assert f"to {small['mean_grey_levels']:.2f} grey levels" in text
    assert f"24 × 24 ({small['largest_grey_levels']:.1f} at most)" in text
    assert f"to {large['mean_grey_levels']:.2f} ({large['largest_grey_levels']:.1f})" in text
    inside = [one for name, one in cost["latency"].items() if not name.endswith("none")]
    for batch, behind in (("1", " of VGG11's time (half width) at batch 1,"), ("100", " at batch 100, of float32")):
        more = sorted(round(100 * (one[batch][0] - 1)) for one in inside)
        assert f"{more[0]} to {more[-1]} %{behind}" in text


def test_the_times_in_olive_are_those_that_were_measured():
    measured = numbers("olive_time")
    text = " ".join((ROOT / "docs" / "olive.md").read_text(encoding="utf-8").split())
    medians = measured["median"]
    assert f"{medians['compressor run']:.1f} s by `compressor run` and {medians['olive run']:.1f} s" in text
    assert f"{measured['ratio']:.2f} times as long" in text
    assert measured["params"]["olive run"] == measured["params"]["compressor run"]


def test_the_removals_are_those_that_were_measured():
    rows = numbers("removal_engines")["rows"]
    assert all(row["bitwise_equal"] for row in rows.values())
    whole = sum(row["by_torch_pruning"] == row["groups"] for row in rows.values())
    text = " ".join(RESULTS.split())
    assert f"Of {len(rows)} networks, torch-pruning removes the channels of every width group" in text
    assert f"that can lose some in {whole};" in text
    assert f"all {len(rows)} networks were equal to the last bit" in text
    assert max(rows[key]["ratio"] for key in ("vgg11_bn", "torchvision:resnet18")) <= 1.5


def test_what_groups_at_their_minimum_change_is_what_was_measured():
    found = numbers("pruning_records")
    (skip, stop), (skip_std, stop_std) = found["accuracy"]["mean"], found["accuracy"]["std"]
    text = " ".join(RESULTS.split())
    assert f"({skip:.2f} ± {skip_std:.2f} against {stop:.2f} ± {stop_std:.2f} %, three seeds" in text
    assert f"Welch p {found['accuracy']['welch_p']:.2f}" in text
    rows = {setting: found["rows"][f"resnet20 {setting} seed 0 epochs 1"] for setting in ("skip", "stop")}
    assert f"after {rows['stop']['events'][0]} events with too few records" in text
    assert rows["stop"]["fallbacks"][0]
    assert f"now ends after {rows['skip']['events'][0]}" in text
    assert rows["skip"]["fallbacks"] == [None]


def test_what_is_said_of_the_methods_at_three_budgets_follows_from_their_seeds():
    told = json.loads((ROOT / "experiments" / "cifar10_methods.json").read_text())
    found = {}
    for one in told["runs"]:
        found.setdefault((one["method"], one["budget"]), []).append(100 * one["accuracy"])
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").replace("−", "-").split())
    for other in ("uniform", "morphnet"):
        said = []
        for budget in told["budgets"]:
            own, its = found["neuralscale", budget], found[other, budget]
            p = ttest_ind(own, its, equal_var=False).pvalue
            said.append(f"{statistics.mean(own) - statistics.mean(its):+.1f} (p {p:.3f})")
        assert f"{said[0]}, {said[1]} and {said[2]}" in page
    assert ("No method is ahead of every other one" in page) == all(not one["best"] for one in told["groups"])
