"""The tests that the onnx package ships for its operators, taken through our conversion to torch.

    python experiments/onnx_operators.py    counts to experiments/onnx_operators.json

A test is one node with inputs and expected outputs. It is converted with all inputs as they are; where the conversion
asks for constants (weights, shapes, axes), again with all but one input as constants. It passes if torch gives what is
expected. Refused are operators that torch cannot train or run (sequences, strings, quantised types, loops, sizes that
depend on values), each with a sentence. In a real file the outputs are compared with ONNX Runtime's besides.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from compressor.models.from_onnx.conversion import Conversion, ConversionError
from compressor.models.from_onnx.file import inlined
from compressor.models.from_onnx.values import UnsupportedError, numpy_dtype, torch_dtype

RESULT = Path(__file__).parent / "onnx_operators.json"
HALF = 1e-2  # what is expected in 16 bits we compute in 32


def cases() -> list[Any]:
    """The tests of the installed onnx package."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        return [case for case in load_model_tests(kind="node") if case.model.graph.input]


def outcome(case: Any) -> str:
    """passed, refused: why, or differs: by how much."""
    count = len(case.model.graph.input)
    found = ""
    for fixed in [set[int]()] + [set(range(count)) - {one} for one in range(count) if count > 1]:
        try:
            said = attempt(case, fixed)
        except (ConversionError, UnsupportedError) as error:
            said = f"refused: {error}"
        if not found or found.startswith("refused"):
            found = said
        if found == "passed":
            break
    return found


def attempt(case: Any, fixed: set[int]) -> str:
    """Convert a test with some of its inputs as constants, and compare."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    inputs, expected = case.data_sets[0]
    given: dict[str, list[torch.Tensor]] = {}
    for place, (port, value) in enumerate(zip(proto.graph.input, inputs, strict=False)):
        if value is None or isinstance(value, list) or not port.type.HasField("tensor_type"):
            raise UnsupportedError("sequences and optional values")
        if isinstance(value, onnx.TensorProto):
            raise UnsupportedError("values of a type that numpy lacks")
        dtype = torch_dtype(port.type.tensor_type.elem_type)
        if place in fixed:
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), port.name))
        else:
            given[port.name] = [torch.from_numpy(np.array(np.asarray(value).astype(numpy_dtype(dtype))))]
    network = Conversion(inlined(proto), given).convert()
    with torch.no_grad():
        made = network(*[one[0] for one in given.values()])
    for one, other in zip(made if isinstance(made, tuple) else (made,), expected, strict=False):
        wanted = np.asarray(other)
        if tuple(one.shape) != wanted.shape:
            return f"differs: shape {tuple(one.shape)}, expected {wanted.shape}"
        near = HALF if wanted.dtype.itemsize == 2 and wanted.dtype.kind not in "iu" else 1e-5
        left, right = one.numpy().astype(np.float64), wanted.astype(np.float64)
        if not np.allclose(left, right, rtol=max(case.rtol, near), atol=near, equal_nan=True):
            return f"differs: by {np.nanmax(np.abs(left - right)):.3g}"
    return "passed"


def operators(case: Any) -> Iterator[str]:
    """The operators that a test is about."""
    yield from sorted({node.op_type for node in case.model.graph.node})


def reason(said: str) -> str:
    """Why something was refused, without the names of its node."""
    return re.sub(r"^refused: (node \S+ \(\w+\)|output \S+|initializer \S+)?:? ?", "", said)[:90]


def main() -> None:
    from record import write_result

    tally: Counter[str] = Counter()
    reasons: dict[str, list[str]] = defaultdict(list)
    differ: dict[str, str] = {}
    passed: set[str] = set()
    for case in cases():
        said = outcome(case)
        kind = said.partition(":")[0]
        tally[kind] += 1
        if kind == "passed" and len(case.model.graph.node) == 1:
            passed.update(operators(case))
        elif kind == "refused":
            reasons[reason(said)].append(case.name)
        elif kind == "differs":
            differ[case.name] = said
    counts = {why: len(names) for why, names in sorted(reasons.items(), key=lambda pair: -len(pair[1]))}
    write_result(RESULT, {"tests": dict(tally), "operators": sorted(passed), "differ": differ, "refused": counts})
    print(dict(tally), len(passed), "operators;", differ)
    for why, count in counts.items():
        print(f"{count:5} {why}")


if __name__ == "__main__":
    main()
