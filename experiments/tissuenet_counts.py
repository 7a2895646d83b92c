"""Parameters and multiply-adds of TissueNet's networks beside those printed in its Tables 1 to 5.

    python experiments/tissuenet_counts.py

Counted on networks that are built (on the meta device), with batch-norm and biases. The paper's FLOPs are two for each
multiply-add here. It gives no units for ResNet, MobileNetV2 and LeNet: `units` and `why` say what was chosen. Takes a
minute; the numbers go to experiments/tissuenet_counts.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from record import write_result

from compressor.costs import params_macs
from compressor.models import build_meta, example_input, graph_of, reference_architecture, stackable
from compressor.models.architecture import Architecture
from compressor.models.stacked import find_sites, select
from compressor.models.stacked.spec import BasicUnit, Kind, Stack

HERE = Path(__file__).parent
CIFAR, TINY, IMAGENET, MNIST = (3, 32, 32), (3, 64, 64), (3, 224, 224), (1, 28, 28)
_VGG = "the paper's (2, k, 2), in place of what follows the convolution that enters a stage"
_RESNET = "all blocks, or all but those of the first and last stage; units and the share that come nearest"
_TISSUE = {"style": "tissue"}
_MOBILE = "1×1, depth-wise and 1×1 convolutions of blocks; units and the share that come nearest"


@dataclass(frozen=True)
class Row:
    """A row of the paper's tables: its numbers, and how ours are made.

    Attributes:
        printed: (10⁶ parameters, 10⁹ multiply-adds; None where the paper's unit is not clear)
        unit: None for the unscaled network
    """

    table: str
    name: str
    printed: tuple[float, float | None]
    model: str
    classes: int
    shape: tuple[int, int, int]
    unit: BasicUnit | Share | None = None
    strategy: str = "all"
    why: str = ""
    options: Mapping[str, Any] | None = None


class Share(NamedTuple):
    """Units in proportion to a pair's C inputs: so many of them, of C · hidden / 64 nodes each."""

    units: int
    hidden: int

    def __str__(self) -> str:
        return f"{self.units} x (C/{self.units}, {Fraction(self.hidden, 64)} C, n2)"


def tissue(nodes: int, k: int) -> BasicUnit:
    return BasicUnit(nodes, k, nodes)


ROWS = (
    Row("1", "MLP", (0.5458, None), "mlp", 10, MNIST),
    Row(
        "1", "MLP, k = 4", (0.04 * 0.5458, None), "mlp", 10, MNIST, tissue(2, 4), why="one stacked layer of 784 outputs"
    ),
    Row("2", "VGG-16", (14.96, 0.3895), "vgg16_bn", 100, CIFAR),
    Row("2", "VGG-16, k = 6", (4.14, 0.0835), "vgg16_bn", 100, CIFAR, tissue(2, 6), why=_VGG),
    Row("2", "VGG-16, k = 4", (4.08, 0.0785), "vgg16_bn", 100, CIFAR, tissue(2, 4), why=_VGG),
    Row("2", "ResNet-18", (11.22, 0.5565), "preact_resnet18", 100, CIFAR),
    Row("2", "ResNet-18, k = 4, r", (10.16, 0.4515), "preact_resnet18", 100, CIFAR, Share(4, 48), "r", _RESNET),
    Row("2", "ResNet-18, k = 4", (4.20, 0.226), "preact_resnet18", 100, CIFAR, Share(4, 30), "all", _RESNET),
    Row("2", "MobileNetV2", (2.37, 0.0675), "mobilenetv2", 100, CIFAR, options=_TISSUE),
    Row("2", "MobileNetV2, r", (1.78, 0.034), "mobilenetv2", 100, CIFAR, Share(4, 176), "r", _MOBILE, _TISSUE),
    Row("3", "VGG-16", (14.91, 0.39), "vgg16_bn", 10, CIFAR),
    Row("3", "VGG-16, k = 4", (4.04, 0.0785), "vgg16_bn", 10, CIFAR, tissue(2, 4), why=_VGG),
    Row("3", "ResNet-18", (11.17, 0.5565), "preact_resnet18", 10, CIFAR),
    Row("3", "ResNet-18, k = 6, r", (10.11, 0.452), "preact_resnet18", 10, CIFAR, Share(4, 48), "r", _RESNET),
    Row("3", "ResNet-18, k = 6", (6.65, 0.342), "preact_resnet18", 10, CIFAR, Share(32, 46), "all", _RESNET),
    Row("3", "MobileNetV2", (2.25, 0.0675), "mobilenetv2", 10, CIFAR, options=_TISSUE),
    Row("3", "MobileNetV2, r", (1.67, 0.0485), "mobilenetv2", 10, CIFAR, Share(4, 176), "r", _MOBILE, _TISSUE),
    Row("4", "VGG-19", (20.63, 1.90), "vgg19_bn", 200, TINY),
    Row("4", "VGG-19, k = 6", (4.72, 0.35), "vgg19_bn", 200, TINY, tissue(2, 6), why=_VGG),
    Row("4", "VGG-19, k = 6, r", (9.36, 0.695), "vgg19_bn", 200, TINY, tissue(2, 6), "r", _VGG),
    Row("4", "ResNet-34", (21.82, None), "torchvision:resnet34", 1000, IMAGENET),
    Row(
        "4",
        "ResNet-34, k = 8, r",
        (17.53, None),
        "torchvision:resnet34",
        1000,
        IMAGENET,
        Share(4, 36),
        "r",
        _RESNET,
    ),
    *(
        Row(
            "5",
            f"LeNet, {name}",
            (params, flops / 1e3),
            "lenet5",
            10,
            MNIST,
            tissue(2, k),
            why=why,
            options={"style": "tissue"},
        )
        for name, params, flops, k, why in (
            ("1st unit", 0.00141, 0.72, 3, "n1 of 3, 4, 5 and 5×5 convolutions on 24×24 come nearest"),
            ("2nd unit", 0.00183, 0.95, 4, "as above"),
            ("3rd unit", 0.00226, 1.19, 5, "as above"),
        )
    ),
)


def main() -> None:
    rows = []
    for row in ROWS:
        architecture = built(row)
        network = build_meta(architecture)
        params = params_macs.count_params(network)
        macs = params_macs.count_macs(network, example_input(architecture, 1).to("meta"))
        printed_params, printed_macs = row.printed
        rows.append(
            {
                "table": row.table,
                "name": row.name,
                "params": params,
                "paper_params": printed_params * 1e6,
                "params_ratio": params / (printed_params * 1e6),
                "macs": macs,
                "paper_macs": None if printed_macs is None else printed_macs * 1e9,
                "macs_ratio": None if printed_macs is None else macs / (printed_macs * 1e9),
                "units": None if row.unit is None else str(row.unit),
                "stacked": {first: stack.second for first, stack in architecture.stacks.items()},
                "why": row.why,
            }
        )
        shown = rows[-1]
        print(
            f"{row.table} {row.name:<22} {params / 1e6:9.4f} M ({printed_params:9.4f}, x {shown['params_ratio']:.3f})  "
            f"{macs / 1e6:9.2f} M multiply-adds"
            + (f" ({1e3 * printed_macs:.2f}, x {shown['macs_ratio']:.3f})" if printed_macs else ""),
            flush=True,
        )
    write_result(HERE / "tissuenet_counts.json", {"rows": rows})


def built(row: Row) -> Architecture:
    """The network of a row."""
    reference = reference_architecture(row.model, row.options or {}, row.classes, row.shape)
    if row.unit is None:
        return reference
    skeleton, firsts = stackable(reference, row.strategy)
    graph = graph_of(skeleton)
    sites = find_sites(build_meta(skeleton), graph)
    streams = {name for name in graph.groups if len(graph.producers(name)) > 1}
    chosen = select(sites, firsts or row.strategy, streams=streams)
    widths, stacks = dict(skeleton.widths), {}
    for site in chosen:
        if isinstance(row.unit, Share):
            units, hidden = row.unit.units, round(site.inputs * row.unit.hidden / 64)
        else:
            units, hidden = site.inputs // row.unit.inputs, row.unit.hidden
        # Where a block changes the width, its units do in proportion.
        unit = BasicUnit(site.inputs // units, hidden, site.outputs // units)
        stacks[site.first] = Stack(site.second, (Kind(units, unit),))
        widths[site.hidden] = stacks[site.first].hidden
    return replace(skeleton, widths=widths, stacks=stacks)


if __name__ == "__main__":
    main()
