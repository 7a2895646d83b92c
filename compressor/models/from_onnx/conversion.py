"""From an ONNX graph to a torch.fx.GraphModule of ordinary layers, node by node, each run as it is made."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import fx, nn

from compressor.models.from_onnx import movement
from compressor.models.from_onnx.layers import LAYERS, linear
from compressor.models.from_onnx.modules import Stored, has_module, put_module
from compressor.models.from_onnx.names import module_paths
from compressor.models.from_onnx.nodes import attributes_of, constant_of, is_static, named, read_by
from compressor.models.from_onnx.operator import FUNCTIONS, HOST_FUNCTIONS, Operator
from compressor.models.from_onnx.operators import KNOWN
from compressor.models.from_onnx.sizes import equal_parts, reshape_plan
from compressor.models.from_onnx.values import Host, UnsupportedError, Value, host_of, is_host

_NOTHING = ("Identity", "Dropout")  # in evaluation
_STANDARD = ("", "ai.onnx")
_TRAINABLE = {
    *("Add", "Sub", "Mul", "Div", "MatMul", "Gemm", "Concat", "PRelu", "Einsum", "Expand", "Gather"),
    *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"),
}
_LIKE = ("ConstantOfShape", "Range")  # they make tensors of numbers alone: the device is that of the network's input
_GRAPHS_INSIDE = "If, Loop and Scan run graphs of their own, which torch cannot train"
_REFUSED = {
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), _GRAPHS_INSIDE),
    **dict.fromkeys(
        ("NonZero", "Unique", "Compress", "NonMaxSuppression"),
        "how much it gives depends on the values of the network's inputs; cut the file before it",
    ),
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"),
        "what it gives is drawn at random",
    ),
}


@dataclass
class Entry:
    """A value of the graph while it is converted.

    Attributes:
        node: that makes it; None of a constant
        tries: what it is in the batches that the graph is run on as it is converted
        constant: the value of a constant
        weighted: whether it has passed a layer with weights
    """

    node: fx.Node | None
    tries: tuple[Any, ...] = ()
    constant: Host | None = None
    weighted: bool = False

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor of the network's rather than numbers."""
        return self.node is not None and not is_host(self.tries[0])


class ConversionError(Exception):
    """A node that cannot be converted; the text names it, and says why.

    Attributes:
        may_be_size: whether it may be converted where the inputs have another size
    """

    may_be_size = False


class Conversion:
    """Converts one graph.

    Args:
        proto: of the file, functions inlined
        examples: for every input of the graph its value in one batch, and in a larger one if batches may vary
    """

    def __init__(self, proto: onnx.ModelProto, examples: Mapping[str, Sequence[torch.Tensor]]) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.env: dict[str, Entry] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.versions = {entry.domain or "": entry.version for entry in proto.opset_import}
        self.proto = proto
        for node in proto.graph.node:
            for name in read_by(node):
                self.readers[name].append(node)
        self.outputs = [value.name for value in proto.graph.output]
        self.shared: dict[Any, str] = {}  # paths of layers by the names of their weights
        self.skip: set[str] = set()  # outputs of nodes that another one's layer computes
        self._constants(proto.graph.initializer)
        for tensor in proto.graph.sparse_initializer:
            raise ConversionError(f"initializer {tensor.values.name}: sparse tensors are not known")
        for place, (name, tries) in enumerate(examples.items()):
            node = self.graph.placeholder(f"input_{place}" if len(examples) > 1 else "input")
            self.env[name] = Entry(node, tuple(tries))
        self.first = next(iter(examples))

    def convert(self) -> fx.GraphModule:
        """The network, in evaluation mode.

        Raises:
            ConversionError: a node is not known, or has a form that is not
        """
        nodes = list(self.proto.graph.node)
        self._refuse(nodes)
        constants = {name for name, entry in self.env.items() if entry.node is None}
        paths = module_paths(nodes, dict.fromkeys(constants))
        movement.marking[0] = True
        try:
            with torch.no_grad():
                for node, path in zip(nodes, paths, strict=True):
                    self._node(node, path)
                outputs = [self._output(name) for name in self.outputs]
        finally:
            movement.marking[0] = False
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        made = fx.GraphModule(self.root, self.graph, class_name="OnnxGraph")
        made.delete_all_unused_submodules()
        computed = {name: entry for name, entry in self.env.items() if entry.node is not None and entry.is_tensor}
        made.meta["values"] = {name: entry.node.name for name, entry in computed.items() if entry.node is not None}
        made.meta["shapes"] = {
            entry.node.name: tuple(entry.tries[0].shape) for entry in computed.values() if entry.node is not None
        }
        return made.eval()

    def _constants(self, tensors: Iterable[TensorProto]) -> None:
        for tensor in tensors:
            try:
                self.env[tensor.name] = Entry(None, constant=host_of(tensor))
            except UnsupportedError as error:
                if self.readers[tensor.name]:
                    raise ConversionError(f"initializer {tensor.name}: {error} are not known") from error

    def _refuse(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Name what is not known before anything runs."""
        for node in nodes:
            kind = node.op_type
            if kind.startswith(("QLinear", "QuantizeLinear", "DequantizeLinear")) or kind.endswith("Integer"):
                raise ConversionError(f"{named(node)}: the file is quantised; give the float file that it was made of")
            if node.domain not in _STANDARD:
                advice = ", such as ONNX Runtime's optimizer writes; give the file before it"
                known = f"of the domain {node.domain}"
                raise ConversionError(f"{named(node)}: is {known}{advice if 'microsoft' in node.domain else ''}")
            if kind in _REFUSED and kind != "If":
                raise ConversionError(f"{named(node)}: {_REFUSED[kind]}")
            if kind not in (*KNOWN, *_NOTHING, "Constant", "If"):
                raise ConversionError(f"{named(node)}: this operator is not known")

    def _node(self, node: onnx.NodeProto, path: str) -> None:
        if node.output and node.output[0] in self.skip:
            return
        try:
            self._converted(node, path)
        except UnsupportedError as error:
            raise ConversionError(f"{named(node)}: {error}: not known") from error
        except ConversionError:
            raise
        except Exception as error:  # torch refuses what it is given, or the file is wrong
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            refused = ConversionError(f"{named(node)}: {reason}")
            refused.may_be_size = True
            raise refused from error

    def _converted(self, node: onnx.NodeProto, path: str) -> None:
        attributes = attributes_of(node)
        if node.op_type == "Constant":
            if not self._is_used(node.output[0]):
                return
            self.env[node.output[0]] = Entry(None, constant=constant_of(attributes))
            return
        given = [self.env[name] if name else None for name in node.input]
        if node.op_type in _NOTHING:
            if node.op_type == "Dropout" and len(given) > 2 and given[2] is not None:
                flag = given[2].constant
                if flag is None or bool(flag):
                    raise UnsupportedError("training_mode")
            if len(node.output) > 1 and any(self._is_used(name) for name in node.output[1:]):
                raise UnsupportedError("the output mask")
            assert given[0] is not None
            self.env[node.output[0]] = given[0]
            return
        if node.op_type == "If":
            self._branch(node, given, attributes, path)
            return
        version = self.versions.get(node.domain or "", self.versions.get("ai.onnx", 1))
        if all(entry is None or entry.node is None for entry in given):
            self._fold(node, given, attributes, version)
            return
        weighted = any(entry is not None and entry.weighted for entry in given)
        key = self._key(node, given, attributes)
        if key in self.shared:
            self._emit(node, given, [self.root.get_submodule(self.shared[key])], self.shared[key], weighted=weighted)
            return
        made = self._layer(node, given, attributes, version)
        if made is not None and key is not None and len(made) == 1:
            self.shared[key] = path
        if made is None:
            made = [self._operator(node, given, attributes, version, weighted=weighted)]
        self._emit(node, given, made, path, weighted=weighted)

    def _fold(self, node: onnx.NodeProto, given: list[Entry | None], attributes: Any, version: int) -> None:
        constants: list[Any] = [entry.constant if entry is not None else None for entry in given]
        bare = Operator(node.op_type, version, attributes, constants, len(node.output))
        if node.op_type in HOST_FUNCTIONS:
            found: Any = HOST_FUNCTIONS[node.op_type](bare, constants)
        else:
            if node.op_type not in FUNCTIONS:
                raise UnsupportedError("constants alone as inputs")
            tensors = [torch.from_numpy(np.array(one)) if one is not None else None for one in constants]
            static = [place for place in range(1, len(tensors)) if is_static(node.op_type, place)]
            values = [constants[place] if place in static else one for place, one in enumerate(tensors)]
            found = FUNCTIONS[node.op_type](bare, values)
        several = found if isinstance(found, tuple) else (found,)
        for name, value in zip(node.output, several, strict=False):
            self.env[name] = Entry(None, constant=value.numpy() if isinstance(value, torch.Tensor) else value)

    def _branch(self, node: onnx.NodeProto, given: list[Entry | None], attributes: Any, path: str) -> None:
        """An If whose condition is known: exporters write some for shapes."""
        condition = given[0]
        assert condition is not None
        if condition.node is not None and any(not is_host(one) for one in condition.tries):
            raise UnsupportedError(_GRAPHS_INSIDE)
        answers = {bool(one) for one in condition.tries} if condition.node is not None else {bool(condition.constant)}
        if len(answers) > 1:
            raise UnsupportedError("a condition that depends on the batch")
        body = attributes["then_branch" if answers.pop() else "else_branch"]
        for inner in body.node:
            for name in inner.input:
                self.readers[name].append(inner)
        for value in body.output:
            self.readers[value.name].append(node)
        self._constants(body.initializer)
        self._refuse(body.node)
        for inner, name in zip(body.node, module_paths(list(body.node), {}), strict=True):
            self._node(inner, f"{path}_{name.replace('.', '_')}")
        for outer, value in zip(node.output, body.output, strict=True):
            self.env[outer] = self.env[value.name]

    def _key(self, node: onnx.NodeProto, given: list[Entry | None], attributes: Any) -> Any:
        """What tells layers of the same weights, which are one layer; None: it has none that others have too."""
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "Gather", "LSTM", "GRU", "RNN"):
            return None
        weight = next((name for name, e in zip(node.input, given, strict=True) if _is_matrix(e)), None)
        if weight is None or sum(name == weight for reader in self.readers[weight] for name in reader.input) < 2:
            return None
        names = [name if e is not None and e.node is None else None for name, e in zip(node.input, given, strict=True)]
        size = given[0].tries[0].shape if "auto_pad" in attributes and given[0] is not None else None
        return node.op_type, tuple(names), repr(sorted(attributes.items())), size

    def _places(self, given: list[Entry | None]) -> list[Any]:
        return [None if e is None else "given" if e.node is not None else e.constant for e in given]

    def _layer(
        self, node: onnx.NodeProto, given: list[Entry | None], attributes: Any, version: int
    ) -> list[nn.Module] | None:
        if node.op_type not in LAYERS:
            return None
        computed = [entry for entry in given if entry is not None and entry.node is not None]
        if not all(entry.is_tensor for entry in computed):
            return None
        bare = Operator(node.op_type, version, attributes, self._places(given), len(node.output))
        constants = [entry.constant if entry is not None else None for entry in given]
        made = LAYERS[node.op_type](bare, constants, computed[0].tries[0].shape)
        if made is not None and node.op_type == "MatMul":
            made = self._with_bias(node, made)
        return made

    def _with_bias(self, node: onnx.NodeProto, made: list[nn.Module]) -> list[nn.Module]:
        """Where an addition of a vector alone reads a product, it is the layer's bias."""
        readers = self.readers[node.output[0]]
        layer = made[0]
        assert isinstance(layer, nn.Linear)
        if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in self.outputs:
            return made
        other = [name for name in readers[0].input if name != node.output[0]]
        entry = self.env.get(other[0]) if other else None
        constant = entry.constant if entry is not None else None
        if constant is None or constant.size != layer.out_features or constant.shape[-1:] != (constant.size,):
            return made
        if constant.ndim > len(self.env[node.input[0]].tries[0].shape):
            return made
        weight = layer.weight.detach().numpy()
        self.skip.add(readers[0].output[0])
        return [linear(weight, constant.reshape(-1))]

    def _operator(
        self, node: onnx.NodeProto, given: list[Entry | None], attributes: Any, version: int, *, weighted: bool
    ) -> Operator:
        places: list[Any] = self._places(given)
        for place, value in enumerate(places):
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or is_static(node.op_type, place):
                continue
            trains = weighted or node.op_type in ("Gather", "MatMul", "Gemm", "Expand")
            if value.size > 1 and node.op_type in _TRAINABLE and trains:
                places[place] = torch.from_numpy(np.array(value, order="C"))
        made = Operator(node.op_type, version, attributes, places, len(node.output))
        made.plan = self._plan(node, made, given)
        self._one_row_(made, given)
        if node.op_type in _LIKE and not any(entry is not None and entry.is_tensor for entry in given):
            made.places.append("given")
        return made

    def _one_row_(self, made: Operator, given: list[Entry | None]) -> None:
        """Of constants that have a row for every sample of a fixed batch, all the same, one is enough."""
        first = self.env[self.first].tries
        batch = first[0].shape[0]
        ranks = [len(e.tries[0].shape) for e in given if e is not None and e.is_tensor]
        if made.kind not in ("Add", "Sub", "Mul", "Div", "Concat") or len(first) < 2 or batch < 2 or not ranks:
            return
        for name, parameter in list(made.named_parameters(recurse=False)):
            alike = parameter.dim() == max(ranks) and len(parameter) == batch
            if alike and bool((parameter == parameter[:1]).all()):
                setattr(made, name, nn.Parameter(parameter.detach()[:1].clone()))
                made.plan = "batch" if made.kind == "Concat" else made.plan

    def _plan(self, node: onnx.NodeProto, made: Operator, given: list[Entry | None]) -> Any:
        """How sizes that are literals in the file follow those of the tensors."""
        data = given[0]
        if data is None or not data.is_tensor:
            return self._concat_plan(node, given)
        before = data.tries[0].shape
        if node.op_type == "Reshape":
            entry = given[1] if len(given) > 1 else None
            if entry is None:
                wanted = list(made.attribute("shape", []))
            else:
                value: Value = entry.constant if entry.node is None else entry.tries[0]
                if not is_host(value):
                    return None
                assert isinstance(value, np.ndarray)
                wanted = [item if value.dtype == object else int(item) for item in value.reshape(-1)]
            zeros = bool(made.integer("allowzero", 0))
            batch = self.env[self.first].tries[0].shape[0]
            return reshape_plan(before, data.tries[-1].shape, wanted, zeros=zeros, batch=batch)
        if node.op_type == "Split":
            axis = made.integer("axis", 0)
            sizes = made.attribute("split") if len(given) < 2 or given[1] is None else given[1].constant
            if sizes is None or len(set(sizes)) > 1:
                return None
            return "equal" if before[axis] == sum(int(size) for size in sizes) else None
        if node.op_type == "Slice":
            mine = self._range_of(node)
            if mine is None:
                return None
            axis, bounds = mine
            axis = axis % len(before)
            siblings = [self._range_of(other) for other in self.readers[node.input[0]] if other.op_type == "Slice"]
            length = before[axis]
            ranges = [_within(found[1], length) for found in siblings if found and found[0] % len(before) == axis]
            return equal_parts(ranges, length).get(_within(bounds, length))
        return self._concat_plan(node, given)

    def _concat_plan(self, node: onnx.NodeProto, given: list[Entry | None]) -> str | None:
        if node.op_type != "Concat":
            return None
        batches = set()
        for entry in given:
            if entry is not None and entry.is_tensor:
                batches.add(entry.tries[-1].shape[0])
            elif entry is not None and entry.constant is not None and entry.constant.ndim:
                batches.add(entry.constant.shape[0])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        return "batch" if axis != 0 and len(batches) > 1 else None

    def _range_of(self, node: onnx.NodeProto) -> tuple[int, tuple[int, int]] | None:
        """The only axis that a slice cuts, and from where to where, if these are literals."""
        attributes = attributes_of(node)
        found: list[list[int]] = []
        for place, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
            entry = self.env.get(node.input[place]) if place < len(node.input) and node.input[place] else None
            if entry is not None and entry.constant is None:
                return None
            value = entry.constant if entry is not None else attributes.get(name)
            found.append([int(item) for item in value] if value is not None else [])
        starts, ends, axes, steps = found
        if len(starts) != 1 or len(ends) != 1 or (steps and steps != [1]):
            return None
        return (axes[0] if axes else 0), (starts[0], ends[0])

    def _emit(
        self, node: onnx.NodeProto, given: list[Entry | None], made: list[nn.Module], path: str, *, weighted: bool
    ) -> None:
        entries = [entry for entry in given if entry is not None and entry.node is not None]
        last = made[-1]
        if isinstance(last, Operator) and len([p for p in last.places if isinstance(p, str) and p == "given"]) > len(
            entries
        ):
            entries.append(self.env[self.first])
        entries = self._without_zeros(last, given, entries)
        current: tuple[fx.Node, ...] = tuple(entry.node for entry in entries if entry.node is not None)
        tries = [tuple(entry.tries[place % len(entry.tries)] for entry in entries) for place in range(self._count())]
        shared = path in self.shared.values() and has_module(self.root, path)
        for number, module in enumerate(made):
            name = path if module is _main(made) else f"{path}_pad{number}"
            while not shared and has_module(self.root, name):
                name += "_"
            if not shared:
                put_module(self.root, name, module.eval())
            outputs = [module(*inputs) for inputs in tries]
            current = (self.graph.call_module(name, current),)
            tries = [(output,) for output in outputs]
        (fx_node,), results = current, [one[0] for one in tries]
        weighted = weighted or any(True for module in made for _ in module.parameters())
        name = readers[0].output[0] if (readers := self._biased(node)) else node.output[0]
        if not isinstance(results[0], tuple):
            for other in node.output[1:]:
                if self._is_used(other):
                    raise UnsupportedError(f"the output {other}")
            self.env[name] = Entry(fx_node, tuple(results), weighted=weighted)
            return
        for place, output in enumerate(node.output):
            if output and self._is_used(output):
                part = self.graph.call_function(operator.getitem, (fx_node, place))
                self.env[output] = Entry(part, tuple(one[place] for one in results), weighted=weighted)

    def _biased(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        readers = self.readers[node.output[0]]
        return readers if node.op_type == "MatMul" and readers and readers[0].output[0] in self.skip else []

    def _without_zeros(self, module: nn.Module, given: list[Entry | None], entries: list[Entry]) -> list[Entry]:
        """Without first states of a recurrent layer that are zeros, which need no input."""
        zeros = getattr(module, "zeros", None)
        if zeros is None:
            return entries
        states = [given[place] if place < len(given) else None for place in range(5, 5 + len(zeros))]
        computed = [entry for entry in states if entry is not None and entry.node is not None]
        if len(computed) not in (0, len(zeros)) or any(
            entry is not None and entry.node is None and not zero for entry, zero in zip(states, zeros, strict=True)
        ):
            raise UnsupportedError("first states of which only some are computed, or that are constants other than 0")
        data = given[0]
        assert data is not None
        return [data, *computed]

    def _count(self) -> int:
        return len(self.env[self.first].tries)

    def _is_used(self, name: str) -> bool:
        return bool(name) and (bool(self.readers[name]) or name in self.outputs)

    def _output(self, name: str) -> fx.Node:
        entry = self.env.get(name)
        if entry is not None and entry.constant is not None:
            path = f"constant_{len(self.outputs)}_{self.outputs.index(name)}"
            put_module(self.root, path, Stored(torch.from_numpy(np.array(entry.constant))))
            return self.graph.call_module(path)
        if entry is None or entry.node is None or not entry.is_tensor:
            raise ConversionError(f"output {name}: is no tensor that torch computes, but a shape")
        return entry.node


def _main(made: list[nn.Module]) -> nn.Module:
    """Of the modules of one node the one with weights."""
    return next((module for module in made if any(True for _ in module.parameters())), made[0])


def _within(bounds: tuple[int, int], length: int) -> tuple[int, int]:
    start, end = (bound + length if bound < 0 else min(bound, length) for bound in bounds)
    return start, end


def _is_matrix(entry: Entry | None) -> bool:
    """Whether it is a constant that weighs, rather than the zeros or ones that exporters share among layers."""
    value = entry.constant if entry is not None else None
    return value is not None and value.ndim > 1 and value.dtype.kind == "f" and bool((value != value.flat[0]).any())
