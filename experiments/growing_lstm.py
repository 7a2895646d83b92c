"""A two-layer LSTM grown to 31 % of its parameters beside uniform scaling, on text that Python comes with.

    python experiments/growing_lstm.py --out runs/lstm

The text is the docstrings of the standard library's modules, in words, the 1,000 most frequent of them; every tenth
module is for validation, every tenth for testing. `recipes/growing-ptb.yaml` with 300 in place of 1,500 units and 6
epochs. Writes test perplexities (PyTorch's equal the ONNX file's, which the run checks) to growing_lstm.json.
"""

from __future__ import annotations

import argparse
import ast
import re
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

from record import write_result

from compressor.files import read_json
from compressor.pipeline.runner import run
from compressor.recipe import load_recipe

HERE = Path(__file__).parent
WORDS = 1000
MOST = {"train": 150_000, "valid": 20_000, "test": 20_000}  # words
CHANGES = (
    "model.options={embedding: 300, hidden: 300, dropout: 0.2}",
    "budget={params: 0.31x}",
    "train.epochs=6",
    "train.precision=fp32",
    "baselines=[]",
    "bench.runs=10",
    "bench.threads=1",
    "threads=1",
)


def write_text(folder: Path) -> dict[str, int]:
    """Write train.txt, valid.txt and test.txt; how many words each has."""
    parts: dict[str, list[list[str]]] = {name: [] for name in MOST}
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    for place, module in enumerate(modules):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, nodes)]
        sentences = [re.findall(r"[a-z]+|[.,:;()]", text.lower()) for text in texts]
        part = {0: "valid", 1: "test"}.get(place % 10, "train")
        parts[part] += [words for words in sentences if words]
    frequent = Counter(word for words in parts["train"] for word in words).most_common(WORDS)
    known = {word for word, _ in frequent}
    counts = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, sentences in parts.items():
        lines, count = [], 0
        for words in sentences:
            if count + len(words) > MOST[name]:
                break
            lines.append(" ".join(word if word in known else "<unk>" for word in words))
            count += len(words)
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts[name] = count
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/lstm"))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    counts = write_text(arguments.out / "text")
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for method in ("uniform", "growing"):
            changes = [f"data.path={arguments.out / 'text'}", f"search={{method: {method}}}", f"seed={seed}", *CHANGES]
            out = arguments.out / f"{method}-{seed}"
            run(load_recipe(HERE.parent / "recipes" / "growing-ptb.yaml", changes), out, resume=True, progress=show)
            report = read_json(out / "report.json")
            row = {"method": method, "seed": seed, "params": report["params"], "met": report["budget"]["met"]}
            row |= {"perplexity": report["metric"]["onnx"], "widths": read_json(out / "architecture.json")["widths"]}
            rows.append(row)
            print(row, flush=True)
            write_result(HERE / "growing_lstm.json", {"words": counts, "rows": rows})


def show(stage: str, text: str, share: float | None) -> None:
    print(f"{stage:>7}  {text}", flush=True)


if __name__ == "__main__":
    main()
