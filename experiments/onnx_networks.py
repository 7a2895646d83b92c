"""Networks that come as ONNX files: converted, compared, resized, and exported again.

    python experiments/onnx_networks.py [NAME ...]    none: all; rows that are in onnx_networks.json are not repeated

Every network is exported by torch's two exporters at operator sets 11, 13, 17 and 20 (the newer one writes 18 where
less is asked), and four graphs are made by hand. Each file is converted and compared with ONNX Runtime at three
batches; all its width groups are set to half, to one and a half, and to random widths, run in training and backwards;
the one of random widths is exported again and compared.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from networks import make
from onnx_graphs import GRAPHS
from record import write_result
from torch import nn

from compressor.dependency import DependencyGraph, dependency_graph, resize_
from compressor.exporters import export_onnx
from compressor.models.from_onnx.file import read_file
from compressor.models.from_onnx.interface import is_channels_last
from compressor.models.from_onnx.network import network_of
from compressor.models.initialise import reinitialise_

RESULT = Path(__file__).with_suffix(".json")
NAMES = [
    *("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0"),
    *("densenet121", "squeezenet1_1", "regnet_y_400mf", "googlenet", "convnext_tiny", "mnasnet1_0", "vgg11_bn"),
    *("deeplabv3_resnet50", "timm:resnet10t", "timm:convnextv2_atto", "timm:repvgg_a0", "timm:hrnet_w18_small"),
    *("timm:res2net50_26w_4s", "timm:vit_tiny_patch16_224"),
]
FORMS = [("traced", 17), ("dynamo", 20), ("traced", 11), ("traced", 13), ("traced", 20), ("dynamo", 18)]
SIDE = 64
SIDES = {"vit": 224, "googlenet": 96, "deeplab": 65, "vgg": 224}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or [*GRAPHS, *NAMES]
    for exporter, opset in FORMS:
        for name in wanted:
            kind = "by hand" if name in GRAPHS else exporter
            if (kind == "by hand" and exporter == "dynamo") or known(name, kind, opset):
                continue
            row = {"network": name, "exporter": kind, "opset": opset, **attempt(name, kind, opset)}
            write_result(RESULT, {"rows": [*rows(), row]})
            print(row, flush=True)
            gc.collect()


def rows() -> list[dict[str, Any]]:
    """What was measured."""
    return json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []  # type: ignore[no-any-return]


def known(name: str, exporter: str, opset: int) -> bool:
    """Whether a row is there."""
    return any((row["network"], row["exporter"], row["opset"]) == (name, exporter, opset) for row in rows())


def attempt(name: str, exporter: str, opset: int) -> dict[str, Any]:
    """Take one file all the way; what fails is said."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            shape, free = written(name, exporter, opset, path)
        except Exception as error:
            return {"exported": f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"}
        proto = onnx.load(path)
        found: dict[str, Any] = {"wrote": next(one.version for one in proto.opset_import if not one.domain)}
        try:
            return found | measured(path, shape, free)
        except Exception as error:
            return found | {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def measured(path: Path, shape: tuple[int, ...], free: int | None) -> dict[str, Any]:
    """Convert, resize and export a file."""
    start = time.perf_counter()
    network = network_of(path, {})
    converted = time.perf_counter() - start
    images = torch.randn(2, *shape)
    graph = dependency_graph(network, images)
    planned = time.perf_counter() - start
    network = network_of(path, {})  # tracing leaves it as it is, but for real weights we want it untouched
    found: dict[str, Any] = {
        "convert_s": round(converted, 2),
        "plan_s": round(planned, 2),
        "groups": len(graph.groups),
        "fixed": len(graph.fixed),
        "groups_in_torch": free,
    }
    for kind in ("half", "more", "random"):
        resized = network_of(path, {})
        widths = draw(graph, kind)
        resize_(resized, graph, widths)
        reinitialise_(resized, network)
        output = resized.train()(torch.randn(4, *shape))
        (output[0] if isinstance(output, tuple) else output).float().square().mean().backward()
        if kind != "random":
            continue
        resized.eval()
        again = path.with_name("again.onnx")
        exported = export_onnx(resized, again, [images[:1], torch.randn(3, *shape)], tolerance=1e-3)
        found["again"] = float(f"{exported.parity.max_rel_error:.2g}")
    return found


def draw(graph: DependencyGraph, kind: str) -> dict[str, int]:
    """Widths of all groups: half, one and a half times, or each at random."""
    rng = random.Random(0)
    share = {"half": lambda: 0.5, "more": lambda: 1.5, "random": lambda: rng.uniform(0.3, 1.5)}[kind]
    return {
        name: max(group.step, int(group.channels * share()) // group.step * group.step)
        for name, group in graph.groups.items()
    }


def written(name: str, exporter: str, opset: int, path: Path) -> tuple[tuple[int, ...], int | None]:
    """Write a file; the shape of one input, and the groups that are free in PyTorch's own network."""
    if name in GRAPHS:
        proto = GRAPHS[name](opset)
        onnx.checker.check_model(proto)
        onnx.save(proto, path)
        sizes = tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:])
        return (sizes[-1], *sizes[:-1]) if is_channels_last(read_file(path), "auto") else sizes, None
    torch.manual_seed(0)
    model = make(name)
    side = next((size for word, size in SIDES.items() if word in name), SIDE)
    images = torch.randn(4, 3, side, side)
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(images)  # statistics of batch-norms that are not 0 and 1
    model = First(model).eval()
    free = len(dependency_graph(model, images[:2]).groups)
    model.eval()
    if exporter == "traced":
        torch.onnx.export(
            model,
            (images[:2],),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
        )
    else:
        torch.onnx.export(
            model,
            (images[:2],),
            str(path),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
            external_data=False,
        )
    return (3, side, side), free


class First(nn.Module):
    """The first output of a network that gives several."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to the main output."""
        found = self.network(x)
        if isinstance(found, torch.Tensor):
            return found
        return next(iter(found.values())) if isinstance(found, dict) else found[0]


if __name__ == "__main__":
    main()
