"""The rows of the README's table."""

from __future__ import annotations

from table_cells import Rows, ends, numbers, of_file, spread, welch


def reached() -> Rows:
    return [*_at_equal_costs(), *_with_files_and_limits(), *_of_time()]


def _at_equal_costs() -> Rows:
    quick, head = numbers("quickstart")["summary"]["percent"], numbers("headline")["networks"]
    small, grown = numbers("cifar10_vgg11")["networks"], numbers("growing_fresh")["runs"]
    accuracy = {name: spread(one["accuracy_percent"]) for name, one in small.items()}
    growing, uniform = (
        [one["accuracy_percent"] for one in grown[f"vgg16_bn params 0.1x {method}"]]
        for method in ("growing", "uniform")
    )
    vgg16, resnet18 = (_at_half_the_latency(network) for network in ("vgg16", "resnet18"))
    return [
        (
            "quickstart, a tenth of the multiply-adds, five seeds",
            f"{spread(quick['result'], 1)} mIoU",
            f"uniform scaling {spread(quick['uniform'], 1)} (p {welch(quick['result'], quick['uniform']):.2g}), "
            f"unscaled {spread(quick['reference'], 1)}",
        ),
        (
            "VGG11, full width, to 0.58 M parameters, two seeds",
            f"`neuralscale` {spread(head['neuralscale']['accuracy_percent'])}",
            f"uniform scaling {spread(head['uniform']['accuracy_percent'])}, with a quarter of the multiply-adds; "
            "the paper 91.2 and 88.2 % in 300 epochs",
        ),
        (
            "VGG11 × 0.25, CIFAR-10, 37,000 parameters, three seeds",
            f"`neuralscale` **{accuracy['neuralscale']}**",
            f"uniform scaling {accuracy['uniform']}, with a quarter of the multiply-adds; "
            f"unscaled {accuracy['reference']}",
        ),
        (
            "VGG16 × 0.25 to 10 % of the parameters, five seeds",
            f"`growing` **{spread(growing)}**",
            f"uniform scaling {spread(uniform)}, with a quarter of the multiply-adds; at equal multiply-adds growing "
            "is a point behind",
        ),
        (
            "VGG16 × 0.25 at half of its latency, three seeds",
            f"`tissuenet` {spread(vgg16['tissuenet'])}",
            f"uniform scaling {spread(vgg16['uniform'])} (p {welch(*vgg16.values()):.2f}); on ResNet-18 × 0.25 one "
            f"point behind (p {welch(*resnet18.values()):.2f})",
        ),
    ]


def _at_half_the_latency(network: str) -> dict[str, list[float]]:
    rows = [row for row in numbers(f"tissuenet_cifar10_{network}")["rows"] if "latency" in row["budget"]]
    return {
        method: [100 * row["accuracy"] for row in rows if row["method"] == method]
        for method in ("tissuenet", "uniform")
    }


def _with_files_and_limits() -> Rows:
    labels, none, plain = (of_file("0.1x params", "taylor", arm) for arm in ("onnx", "onnx, no labels", "torch"))
    cases = [(case["budget"], case["by_hand"]["params"]) for case in numbers("latency_budgets")["cases"].values()]
    met = sum(own["verdict"] == "met" for own, _ in cases)
    found = numbers("latency_fastnas")["results"]
    ours, theirs = (
        [row for name, row in found.items() if name.startswith(side)] for side in ("ours", "fastnas_latency")
    )
    return [
        (
            "a trained VGG11 × 0.25 as ONNX file (69.3 %), to 0.1× parameters",
            f"{spread(labels, 1)}; without labels {spread(none, 1)}",
            f"in PyTorch {spread(plain, 1)}",
        ),
        (
            "twelve latency budgets of VGG11 and MobileNetV2",
            f"{'all' if met == len(cases) else met} met, "
            f"{ends([100 * own['used_of_limit_upper'] for own, _ in cases], '.1f', ' to ')} % of the limit used",
            "scaled by hand to that share of the parameters: "
            f"{ends([hand['used_of_limit'] for _, hand in cases], '.2f', ' to ')} times the limit",
        ),
        (
            "0.6× latency of VGG11 × 0.25, three seeds",
            ends([row["ratio"] for row in ours], ".3f", " to "),
            f"FastNAS of NVIDIA Model Optimizer: {ends([row['ratio'] for row in theirs], '.3f', ' to ')}, in "
            f"{ends([row['search_seconds'] for row in theirs], '.0f', ' to ')} s where ours takes "
            f"{ends([row['search_seconds'] for row in ours], '.0f', ' to ')} s",
        ),
    ]


def _of_time() -> Rows:
    gate = numbers("latency_gate")["table"]
    slower, same = ([gate[f"vgg11/{batch}/{what}"] for batch in (1, 100)] for what in ("+3%", "A/A"))
    alarms = sum(row["regression"] for row in same)
    full, quarter = numbers("pruning_speed_full"), numbers("pruning_speed")
    return [
        (
            f"gate at 2 %, a model that is 3 % slower, {sum(row['trials'] for row in slower)} comparisons",
            f"{sum(row['regression'] for row in slower)} found, {alarms or 'no'} false alarm{'s' * (alarms > 1)}",
            f"two stored means 5 % apart: {sum(row['separate_alarms'] for row in slower)} found, "
            f"{sum(row['separate_alarms'] for row in same)} false alarms",
        ),
        (
            "time of pruning VGG11, full width",
            f"{full['ratio']:.2f} of pruning by masks",
            f"torch-pruning {full['ratio_torch_pruning']:.2f}; at a quarter of the width {quarter['ratio']:.2f} and "
            f"{quarter['ratio_torch_pruning']:.2f}",
        ),
    ]
