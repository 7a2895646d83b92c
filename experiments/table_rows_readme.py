"""The rows of the README's table: one for each of the claims that a reader should know first."""

from __future__ import annotations

from statistics import mean

from table_cells import Rows, earlier, ends, gain, numbers, of_file, p_of, seeds, spread, table


@table
def reached() -> Rows:
    """All of them."""
    return [
        _quickstart(),
        *_neuralscale(),
        _growing(),
        _tissuenet(),
        _given_as_file(),
        _latency_budgets(),
        _peer(),
        _gate(),
        _pruning(),
    ]


def _quickstart() -> tuple[str, ...]:
    percent = numbers("quickstart")["summary"]["percent"]
    return (
        f"quickstart, a tenth of the multiply-adds, {seeds(percent['result'])}{earlier('quickstart')}",
        f"{spread(percent['result'], 1)} mIoU",
        f"uniform scaling {spread(percent['uniform'], 1)} ({p_of(percent['result'], percent['uniform'])}), "
        f"unscaled {spread(percent['reference'], 1)}",
    )


def _neuralscale() -> Rows:
    rows: Rows = []
    for name, what in (
        ("headline", "VGG11, full width, to 0.58 M parameters"),
        ("cifar10_vgg11", "VGG11 × 0.25, CIFAR-10, 37,000 parameters"),
    ):
        found = numbers(name)["networks"]
        percent = {network: one["accuracy_percent"] for network, one in found.items()}
        share = mean(found["uniform"]["macs"]) / mean(found["neuralscale"]["macs"])
        behind = "the paper 91.2 and 88.2 % in 300 epochs"
        if "reference" in found:
            behind = f"unscaled {spread(percent['reference'])}"
        rows.append(
            (
                f"{what}, {seeds(percent['neuralscale'])}{earlier(name)}",
                f"`neuralscale` {spread(percent['neuralscale'])}",
                f"uniform scaling {spread(percent['uniform'])}, with {share:.2f} of the multiply-adds; {behind}",
            )
        )
    return rows


def _growing() -> tuple[str, ...]:
    runs = numbers("growing_fresh")["runs"]
    ours, theirs, ours_macs, theirs_macs = (
        runs[f"vgg16_bn {cost} 0.1x {method}"] for cost in ("params", "macs") for method in ("growing", "uniform")
    )
    percent = [[row["accuracy_percent"] for row in arm] for arm in (ours, theirs, ours_macs, theirs_macs)]
    share = mean(row["macs"] for row in theirs) / mean(row["macs"] for row in ours)
    return (
        f"VGG16 × 0.25 to 10 % of the parameters, {seeds(ours)}{earlier('growing_fresh')}",
        f"`growing` {spread(percent[0])}",
        f"uniform scaling {spread(percent[1])}, with {share:.2f} of the multiply-adds; at equal multiply-adds "
        f"{gain(*percent[2:])} points ({p_of(*percent[2:])})",
    )


def _tissuenet() -> tuple[str, ...]:
    (ours, theirs), resnet18 = (_at_half_the_latency(network) for network in ("vgg16", "resnet18"))
    return (
        f"VGG16 × 0.25 at half of its latency, {seeds(ours)}"
        f"{earlier('tissuenet_cifar10_vgg16', 'tissuenet_cifar10_resnet18')}",
        f"`tissuenet` {spread(ours)}",
        f"uniform scaling {spread(theirs)} ({p_of(ours, theirs)}); on ResNet-18 × 0.25 {gain(*resnet18)} points "
        f"({p_of(*resnet18)})",
    )


def _at_half_the_latency(network: str) -> list[list[float]]:
    rows = [row for row in numbers(f"tissuenet_cifar10_{network}")["rows"] if "latency" in row["budget"]]
    return [[100 * row["accuracy"] for row in rows if row["method"] == name] for name in ("tissuenet", "uniform")]


def _given_as_file() -> tuple[str, ...]:
    labels, none, plain = (of_file("0.1x params", "taylor", arm) for arm in ("onnx", "onnx, no labels", "torch"))
    before = of_file("0.1x params", "taylor", "onnx", "trained_percent")
    return (
        f"a trained VGG11 × 0.25 as ONNX file ({mean(before):.1f} %), to 0.1× parameters, {seeds(labels)}"
        f"{earlier('onnx_accuracy', 'kept_weights')}",
        f"{spread(labels, 1)}; without labels {spread(none, 1)}",
        f"in PyTorch {spread(plain, 1)}",
    )


def _latency_budgets() -> tuple[str, ...]:
    cases = [(case["budget"], case["by_hand"]["params"]) for case in numbers("latency_budgets")["cases"].values()]
    met = sum(own["verdict"] == "met" for own, _ in cases)
    used = ends([100 * own["used_of_limit_upper"] for own, _ in cases], ".1f", " to ")
    hand = ends([hand["used_of_limit"] for _, hand in cases], ".2f", " to ")
    return (
        f"{len(cases)} latency budgets of VGG11 and MobileNetV2{earlier('latency_budgets')}",
        f"{'all' if met == len(cases) else met} met, {used} % of the limit used",
        f"scaled by hand to that share of the parameters: {hand} times the limit",
    )


def _peer() -> tuple[str, ...]:
    found = numbers("latency_fastnas")["results"]
    ours, theirs = (
        [row for name, row in found.items() if name.startswith(side)] for side in ("ours", "fastnas_latency")
    )
    ratios = [ends([row["ratio"] for row in side], ".3f", " to ") for side in (ours, theirs)]
    seconds = [ends([row["search_seconds"] for row in side], ".0f", " to ") for side in (ours, theirs)]
    return (
        f"0.6× latency of VGG11 × 0.25, {seeds(theirs)}{earlier('latency_fastnas')}",
        ratios[0],
        f"FastNAS of NVIDIA Model Optimizer: {ratios[1]}, in {seconds[1]} s where ours takes {seconds[0]} s",
    )


def _gate() -> tuple[str, ...]:
    table = numbers("latency_gate")["table"]
    slower, same = ([table[f"vgg11/{batch}/{what}"] for batch in (1, 100)] for what in ("+3%", "A/A"))
    alarms = sum(row["regression"] for row in same)
    return (
        f"gate at 2 %, a model that is 3 % slower, {sum(row['trials'] for row in slower)} comparisons"
        f"{earlier('latency_gate')}",
        f"{sum(row['regression'] for row in slower)} found, {alarms or 'no'} false alarm{'s' * (alarms > 1)}",
        f"two stored means 5 % apart: {sum(row['separate_alarms'] for row in slower)} found, "
        f"{sum(row['separate_alarms'] for row in same)} false alarms",
    )


def _pruning() -> tuple[str, ...]:
    full, quarter = numbers("pruning_speed_full"), numbers("pruning_speed")
    return (
        f"time of pruning VGG11, full width{earlier('pruning_speed_full', 'pruning_speed')}",
        f"{full['ratio']:.2f} of pruning by masks",
        f"torch-pruning {full['ratio_torch_pruning']:.2f}; at a quarter of the width {quarter['ratio']:.2f} and "
        f"{quarter['ratio_torch_pruning']:.2f}",
    )
