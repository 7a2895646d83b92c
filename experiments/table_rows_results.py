"""The rows of the tables of docs/results.md."""

from __future__ import annotations

from statistics import mean

from table_cells import NONE, Rows, ends, gain, number, numbers, of_file, p_of, spread, table, title


@table
def quickstart() -> Rows:
    """A tenth of the multiply-adds of the segmentation network."""
    found = numbers("quickstart")
    percent, runs = found["summary"]["percent"], [row["networks"] for row in found["rows"].values()]
    names = {
        "result": "what won the race",
        "uniform": "uniform scaling",
        "uniform, lr 1": "uniform scaling at the learning rate that suits it best",
        "reference": "unscaled",
    }
    rows: Rows = []
    for name, shown in names.items():
        macs = f"{ends([run[name]['macs'] / 1000 for run in runs], ',.0f')} k"
        accuracy = spread(percent[name], 1)
        if "uniform" in name:
            accuracy += f", Welch {p_of(percent['result'], percent[name])}"
        rows.append((shown, macs, f"**{accuracy}**" if name == "result" else accuracy))
    return rows


@table
def cifar10_vgg11() -> Rows:
    """VGG11 × 0.25 to 37,000 parameters."""
    names = {"neuralscale": "`neuralscale`", "uniform": "`uniform`", "reference": "unscaled"}
    found = numbers("cifar10_vgg11")["networks"]
    best = max(found, key=lambda name: mean(found[name]["accuracy_percent"]) if name != "reference" else 0)
    rows: Rows = []
    for name, shown in names.items():
        one = found[name]
        accuracy = spread(one["accuracy_percent"])
        macs = ends([value / 1e6 for value in one["macs"]], ".2f")
        rows.append((shown, ends(one["params"], ",d"), f"{macs} M", f"**{accuracy}**" if name == best else accuracy))
    return rows


@table
def headline() -> Rows:
    """VGG11 at its full width to 0.58 M parameters."""
    rows: Rows = []
    found = numbers("headline")["networks"]
    best = max(found, key=lambda name: mean(found[name]["accuracy_percent"]))
    for name, one in found.items():
        macs, ms = ends([value / 1e6 for value in one["macs"]], ".1f"), ends(one["latency_median_ms"], ".1f")
        accuracy = spread(one["accuracy_percent"])
        accuracy = f"**{accuracy}**" if name == best else accuracy
        rows.append((f"`{name}`", ends(one["params"], ",d"), f"{macs} M", accuracy, f"{ms} ms"))
    return rows


def _along(network: str, budget: str, arm: str, column: str = "percent", beside: str | None = None) -> list[float]:
    """One arm over its seeds, but for those that settings were chosen on; of another arm, `beside`, the same seeds."""
    rows = [row for row in numbers("along")["rows"] if (row["network"], row["budget"]) == (network, budget)]
    seeds = {row["seed"] for row in rows if row["seed"] >= 10 and row["arm"] == (beside or arm)}
    mine = [row for row in rows if row["arm"] == arm and row["seed"] in seeds]
    return [row[column] for row in mine if row.get(column) is not None]


@table
def along() -> Rows:
    """NeuralScale along the budget, the paper's and `auto`, beside uniform scaling."""
    networks = {"vgg11": "VGG11", "preact_resnet18": "PreAct-ResNet-18", "mobilenetv2": "MobileNetV2 × 0.5"}
    budgets = {"macs": "0.1× multiply-adds", "latency 100": "0.5× latency, batch 100"}
    rows: Rows = []
    for network, shown in networks.items():
        for budget, limit in budgets.items():
            cells = [spread(_along(network, budget, "uniform"), unit="")]
            for arm in ("along", "paper", "auto"):
                own, base = _along(network, budget, arm), _along(network, budget, "uniform", beside=arm)
                cells.append(f"{spread(own, unit='')} ({gain(own, base)}, {p_of(own, base)})")
            rows.append((f"{shown}, {limit}", *cells))
    return rows


@table
def along_params() -> Rows:
    """VGG11 under 0.064 of the parameters: accuracy, and latency beside the unscaled network."""
    arms = {
        ("params", "uniform"): "`uniform`",
        ("params", "paper any widths"): "`neuralscale`, single channels",
        ("params", "paper"): "`neuralscale`, in blocks",
        ("params and latency 100", "along"): "`neuralscale`, 0.5× latency at batch 100 as well",
    }
    rows: Rows = []
    for (budget, arm), shown in arms.items():
        ratios = [_along("vgg11", budget, arm, f"ratio_{batch}") for batch in (1, 100)]
        ratios[1] = _along("vgg11", budget, arm, "ratio") or ratios[1]  # as the limit of latency was verified
        times = (f"{ends(ratio, '.2f', ' to ')}×" if ratio else NONE for ratio in ratios)
        rows.append((shown, spread(_along("vgg11", budget, arm)), *times))
    return rows


@table
def cifar10_methods() -> Rows:
    """All methods at three budgets."""
    found = numbers("cifar10_methods")
    rows: dict[str, list[str]] = {}
    for group in found["groups"]:
        of, macs = group["accuracy"], group["macs"]["mean"] / 1e6
        accuracy = f"{100 * of['mean']:.2f}" + ("" if of["std"] is None else f" ± {100 * of['std']:.2f}")
        accuracy = f"**{accuracy}**" if group["best"] else accuracy
        method = group["method"].partition(":")[0]
        cells = rows.setdefault(method if method == "unscaled" else f"`{method}`", [""] * len(found["budgets"]))
        cells[found["budgets"].index(group["budget"]) if group["budget"] else -1] = f"{accuracy} ({macs:.2f} M)"
    return [(method, *rows[method]) for method in sorted(rows, key=lambda method: method == "unscaled")]


@table
def pruning_speed_full() -> Rows:
    """Time of the pruning phase."""
    found = numbers("pruning_speed_full")
    arms = {
        "physical": ("physical (ours)", f"**{found['ratio']:.2f}**"),
        "torch_pruning": ("torch-pruning's iterative GroupTaylor pruner", f"{found['ratio_torch_pruning']:.2f}"),
        "masked": ("masked by gates, as the paper's authors do it", "1"),
    }
    return [
        (shown, f"{found['seconds'][arm]:.0f} s", f"{found['steps_per_second'][arm]:.2f}", share)
        for arm, (shown, share) in arms.items()
    ]


@table
def removal_engines() -> Rows:
    """Removing channels by torch-pruning and by the tracer."""
    shown = ("vgg11_bn", "torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:densenet121")
    shown += ("torchvision:shufflenet_v2_x1_0", "torchvision:swin_t", "timm:nfnet_l0")
    found = numbers("removal_engines")["rows"]
    return [
        (
            name.split(":")[-1],
            f"{found[name]['by_torch_pruning']} of {found[name]['groups']}",
            f"{number(found[name]['event_ms'], '.0f')} ms",
            f"{number(found[name]['event_ms_tracer'], '.0f')} ms",
        )
        for name in shown
        if "failed" not in found.get(name, {"failed": "not tried"})
    ]


@table
def precision_files() -> Rows:
    """Files in four precisions."""
    networks = {"vgg11": "VGG11 × 0.5", "resnet20": "ResNet-20", "mobilenetv2": "MobileNetV2 × 0.5"}
    rows: Rows = []
    for network, shown in networks.items():
        found = [row["files"] for row in numbers("precision_files")["rows"] if row["network"] == network]
        for name in ("fp32", "fp16", "int8", "int8 + QAT"):
            files = [row[name] for row in found]
            size = round(mean(file["onnx_bytes"] for file in files))
            ratios = [f"{mean(file['ratio'][batch][0] for file in files):.2f}" for batch in ("1", "100")]
            rows.append((shown, name, f"{size:,}", spread([file["percent"] for file in files]), *ratios))
    return rows


@table
def onnx_in() -> Rows:
    """Networks given as files, compressed by `taylor`."""
    titles = {
        "0.1x params": "0.1× parameters",
        "0.25x params": "0.25× parameters",
        "0.5x latency": "0.5× latency, batch 1",
    }
    arms = ("torch", "onnx", "onnx, no labels")
    return [(shown, *(spread(of_file(b, "taylor", arm), 1) for arm in arms)) for b, shown in titles.items()]


@table
def latency_budgets() -> Rows:
    """What is used of limits of latency."""
    cases = numbers("latency_budgets")["cases"]
    rows: Rows = []
    for network in ("vgg11", "mobilenet_v2"):
        for name, case in cases.items():
            of, batch, share = name.split("/")
            if of != network:
                continue
            own, hand = case["budget"], case["by_hand"]
            used = [f"{100 * own[column]:.1f} %" for column in ("used_of_limit", "used_of_limit_upper")]
            by_hand = [f"{hand[cost]['used_of_limit']:.2f}×" for cost in ("params", "macs")]
            limit = share.replace("x", "×")
            row = (
                f"{title(of)}, batch {batch}",
                limit,
                *used,
                own["verdict"],
                f"{own['search_seconds']:.0f} s",
                *by_hand,
            )
            rows.append(row)
    return rows


@table
def latency_model() -> Rows:
    """Errors of the model of layers."""
    order = (
        "vgg11_bn",
        "vgg11_bn x 0.25",
        "torchvision:resnet18",
        "torchvision:mobilenet_v2",
        "preact_resnet18 x 0.25",
    )
    found = sorted(numbers("latency_model")["rows"], key=lambda row: (order.index(row["network"]), row["batch"]))
    rows: Rows = []
    for row in found:
        errors = [
            " / ".join(f"{100 * error:.1f}" for error in row[column])
            for column in ("leave_one_out", "fresh", "line_fresh")
        ]
        ms, taken = f"{row['unscaled_ms']:#.3g}".rstrip("."), f"{row['probes']} in {row['seconds']:.0f} s"
        rows.append((title(row["network"]), row["batch"], f"{ms} ms", taken, *errors))
    return rows


@table
def latency_gate() -> Rows:
    """What the gate says of known slowdowns."""
    table = numbers("latency_gate")["table"]
    rows: Rows = []
    for slowdown in ("A/A", "+3%", "+6%", "+12%"):
        both = [table[f"vgg11/{batch}/{slowdown}"] for batch in (1, 100)]
        measured = ", ".join(f"{100 * (row['true_ratio'][0] - 1):+.1f} %" for row in both)
        shown = "the same model" if slowdown == "A/A" else f"{slowdown.replace('%', ' %')} ({measured})"
        gate = [
            f"{row['regression']} of {row['trials']} ({row['inconclusive']} inconclusive), "
            f"{row['seconds_median']:.1f} s"
            for row in both
        ]
        trials = sum(row["trials"] for row in both)
        means = [f"{sum(row[column] for row in both)} of {trials}" for column in ("stored_alarms", "separate_alarms")]
        rows.append((shown, *gate, *means))
    return rows


@table
def latency_fastnas() -> Rows:
    """Beside NVIDIA Model Optimizer."""
    sides = {
        "fastnas_latency": "FastNAS, 60 % of the latency",
        "fastnas_params": "FastNAS, 60 % of the parameters",
        "ours_uniform": "ours, `latency: 0.6x`, uniform",
        "ours_neuralscale": "ours, `latency: 0.6x`, neuralscale",
    }
    found = numbers("latency_fastnas")["results"]
    rows: Rows = []
    for side, shown in sides.items():
        mine = [row for name, row in sorted(found.items()) if name.split("/")[0] == side]
        ratios = ", ".join(f"{row['ratio']:.3f}" for row in mine)
        over = ", ".join(f"{100 * (row['ratio'] / 0.6 - 1):+.0f}" for row in mine)
        seconds = ends([row["search_seconds"] for row in mine], ".0f", " to ")
        accuracies = ", ".join(f"{100 * row['accuracy']:.1f}" for row in mine)
        rows.append((shown, f"{ratios} ({over} %)", f"{seconds} s", f"{accuracies} %"))
    return rows
