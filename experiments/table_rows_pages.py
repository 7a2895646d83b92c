"""The rows of the tables of the pages of docs beside results.md."""

from __future__ import annotations

from statistics import mean

from table_cells import NONE, Rows, deviation, ends, gain, number, numbers, of_file, p_of, spread, table


@table
def onnx_accuracy() -> Rows:
    """Networks given as files beside those in PyTorch."""
    rows: Rows = []
    for budget in ("0.1x params", "0.25x params", "0.5x latency"):
        for method in ("taylor", "uniform"):
            plain = of_file(budget, method, "torch")
            both = [of_file(budget, method, arm) for arm in ("onnx", "onnx, no labels")]
            if not (plain and all(both)):
                continue
            files = []
            for found in both:
                files.append(f"{spread(found, 1, '')} ({gain(found, plain)}, {p_of(found, plain)})")
            agreed = of_file(budget, method, "onnx, no labels", "agreement_percent")
            shown = f"{budget}, batch 1" if "latency" in budget else budget
            rows.append((shown, f"`{method}`", spread(plain, 1, ""), *files, spread(agreed, 1, "")))
    return rows


@table
def onnx_networks() -> Rows:
    """Networks that come as ONNX files: how many of a network's went all the way, and the slowest plan."""
    rows: Rows = []
    found = numbers("onnx_networks")["rows"]
    for name in dict.fromkeys(row["network"] for row in found):
        mine = [row for row in found if row["network"] == name and "exported" not in row]
        good = [row for row in mine if "failed" not in row]
        groups = " to ".join(sorted({f"{row['groups']}" for row in good})) or NONE
        theirs = next((row["groups_in_torch"] for row in good if row["groups_in_torch"]), None)
        worst, plan = (max((row[key] for row in good), default=None) for key in ("again", "plan_s"))
        of = f" ({theirs})" if theirs else ""
        rows.append((name, len(mine), len(good), f"{groups}{of}", number(worst, ".0e"), number(plan, ".1f")))
    return rows


@table
def kept_weights() -> Rows:
    """Trained weights kept or not, distilled or not."""
    cases = [("vgg11", budget) for budget in ("0.1x params", "0.25x params", "0.25x macs")] + [
        ("resnet18", "0.25x params")
    ]
    arms = ("fresh", "fresh, 20 epochs", "kept", "kept, distilled", "fresh, distilled")
    found = numbers("kept_weights")["rows"]
    rows: Rows = []
    for network, budget in cases:
        for method in ("uniform", "neuralscale", "taylor"):
            key = (network, budget, method)
            mine = {
                arm: [
                    row["percent"]
                    for row in found
                    if (row["network"], row["budget"], row["method"], row["arm"]) == (*key, arm)
                ]
                for arm in arms
            }
            kept, fresh = mine["kept"], mine["fresh"]
            if not (kept and fresh):
                continue
            cells = [spread(values, 1, "") if values else "" for values in mine.values()]
            rows.append((network, budget, f"`{method}`", *cells, f"{gain(kept, fresh)} ({p_of(kept, fresh)})"))
    return rows


@table
def stacked_latency() -> Rows:
    """Milliseconds of one stacked layer."""
    return [
        (
            f"{row['channels']}, {row['side']}",
            row["k"],
            *(f"{row[form]:.2f}" for form in ("grouped", "blocks", "dense", "normal pair")),
        )
        for row in numbers("stacked_latency")["rows"]
    ]


@table
def tissuenet_counts() -> Rows:
    """Counts beside those of the paper's tables."""
    rows: Rows = []
    for row in numbers("tissuenet_counts")["rows"]:
        digits = 4 if row["paper_params"] < 1e6 else 2
        params = f"{row['params'] / 1e6:.{digits}f} ({row['paper_params'] / 1e6:.{digits}f})"
        macs_digits = 4 if row["macs"] < 6e5 else 2
        macs = f"{row['macs'] / 1e6:.{macs_digits}f}"
        if row["paper_macs"]:
            macs += f" ({row['paper_macs'] / 1e6:.2f})"
        ratio = NONE if row["macs_ratio"] is None else f"{row['macs_ratio']:.2f}"
        rows.append(
            (row["table"], row["name"], params, f"{row['params_ratio']:.3f}", macs, ratio, row["units"] or NONE)
        )
    return rows


@table
def tissuenet_fashion() -> Rows:
    """Fashion-MNIST."""
    return [
        (
            row["name"],
            ends(row["params"], ",d"),
            ends(row["macs"], ",d"),
            deviation(row),
            *(number(row[column], ".2f") for column in ("ce", "se")),
        )
        for row in numbers("tissuenet_fashion")["summary"]
    ]


def _tissuenet_cifar10(network: str) -> Rows:
    rows: Rows = []
    for row in numbers(f"tissuenet_cifar10_{network}")["summary"]:
        cost, _, share = row["budget"].partition("=")
        words = {"params": "parameters", "macs": "multiply-adds", "latency": "latency", "": ""}
        budget = f"{share.replace('x', '×')} {words[cost]}".strip()
        times = row["times_uniform"]
        slower = {"unscaled": NONE, "uniform": "1"}.get(row["method"]) or number(times, ".2f")
        used = NONE if row["limit_used"] is None else f"{100 * row['limit_used']:.1f} %"
        params, macs = f"{row['params'] / 1000:.0f} k", f"{row['macs'] / 1e6:.2f} M"
        rows.append((budget, row["method"], deviation(row), row["seeds"], params, macs, slower, used))
    return rows


@table
def tissuenet_vgg16() -> Rows:
    """CIFAR-10, VGG16 × 0.25."""
    return _tissuenet_cifar10("vgg16")


@table
def tissuenet_resnet18() -> Rows:
    """CIFAR-10, ResNet-18 × 0.25."""
    return _tissuenet_cifar10("resnet18")


@table
def growing_baselines() -> Rows:
    """Growing beside its baselines."""
    runs = numbers("growing_fresh")["runs"]
    rows: Rows = []
    for method in ("growing", "growing, returns 6", "uniform", "random", "direct design", "global temperature"):
        params, macs = (runs[f"vgg16_bn {cost} 0.1x {method}"] for cost in ("params", "macs"))
        flops = NONE
        if "training_flops_share" in params[0] and method != "direct design":
            shares = [f"{mean(row['training_flops_share'] for row in arm):.2f}" for arm in (params, macs)]
            flops = " / ".join(dict.fromkeys(shares))
        accuracies = [spread([row["accuracy_percent"] for row in arm], 2, "") for arm in (params, macs)]
        share = f"{mean(row['macs_share'] for row in params):.2f}"
        rows.append((method, accuracies[0], share, accuracies[1], flops, len(params)))
    return rows


@table
def growing_time() -> Rows:
    """Time of growing VGG16 at full width."""
    found = numbers("growing_time")
    return [
        (
            f"{100 * float(share[:-1]):g} % of the parameters",
            f"{found[share]['time_ratio']:.2f}",
            f"{found[share]['flops_ratio']:.3f}",
            f"{max(found[share]['ratio_by_epoch']):.2f}",
        )
        for share in ("0.05x", "0.1x")
    ]


@table
def torchrun() -> Rows:
    """Two processes beside one."""
    rows: Rows = []
    found, runs = numbers("torchrun")["summary"], numbers("torchrun")["rows"]
    for method in ("uniform", "neuralscale", "growing"):
        for arm in ("one", "two", "two, sync_batch_norm"):
            one = found[method][arm]
            processes = arm.replace("sync_batch_norm", "`sync_batch_norm`")
            p = "" if one["p_beside_one"] is None else f"{one['p_beside_one']:.2f}"
            accuracy = spread([100 * run["accuracy"] for run in runs[method][arm]])
            apart = [number(one[column], ".2f") for column in ("apart_same_seed", "apart_other_seeds")]
            same = f"{one['same_widths']} of {len(runs[method][arm])}"
            rows.append((f"`{method}`", processes, accuracy, p, same, *apart))
    return rows


@table
def hostile() -> Rows:
    """Broken and hostile inputs."""
    names = {
        "recipes": "recipe files: bytes changed, values replaced, bombs",
        "onnx_files": "ONNX files, their bytes or the story in them changed: inspected, and read as networks",
        "data_folders": "folders of images of which one is cut, a pipe's kin, a loop, of another size, a bomb",
        "run_folders": "folders of a run with a reference, after training and at its end: one file cut, changed, "
        "exchanged, emptied, deleted, a pickle, a link, a pipe, or one JSON value another one; every other time "
        "without the sums that would tell",
        "comparison_folders": "the same of comparisons, before their measurement and at their end",
        "checkpoints": "checkpoints in the middle of a search or a training, changed or pickles",
        "arguments": "command lines at random",
        "full_disk": "disks that are full for a while; then the run goes on",
    }
    kinds = numbers("hostile")["kinds"]
    rows: Rows = []
    for name, shown in names.items():
        one = kinds[name]
        counts = [f"{one[key]:,}" for key in ("tried", "accepted", "refused")]
        most = (f"{one['longest_seconds']:.1f} s", f"{one['memory_mb']:.0f} MB")
        rows.append((shown, *counts, len(one["unexpected"]), *most))
    one = kinds["signals"]
    sent = one["signals in"]
    late = sum(count for stage, count in sent.items() if stage.endswith(": over"))
    second = one["tried"] - sum(sent.values())
    tried = f"{sum(sent.values()) - late} signals, {second} second processes"
    gone_on = f"{one['accepted']} runs went on to the same bits"
    shown = "signals to runs and comparisons, and second processes in their folders"
    rows.append((shown, tried, gone_on, f"{one['refused']} second processes", len(one["unexpected"]), "", ""))
    return rows
