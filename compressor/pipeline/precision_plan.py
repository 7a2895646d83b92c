"""What `export.precision: auto` stands for in a run: the precision to search for, which is tried first at the end."""

from __future__ import annotations

import tempfile
from pathlib import Path

from compressor.errors import ExportError, RunError
from compressor.exporters import export_onnx, finish, samples_of
from compressor.exporters.scheme_choice import choose, form_of
from compressor.models import build, example_input
from compressor.models.initialise import noise_like, scatter_
from compressor.pipeline import run_folder
from compressor.pipeline.context import RunContext
from compressor.pipeline.precision_gate import compared
from compressor.pipeline.records import PlannedPrecision
from compressor.recipe import Recipe, costs
from compressor.recipe.precision import AUTO, precisions

_WIDTH = 1.05  # of the interval within which the ratio of latencies is to be known
USUAL_POINTS = 0.5  # that a file may lose where the recipe says nothing


def resolved(context: RunContext) -> Recipe:
    """The recipe of a run, with a precision in place of `auto`; what was found once stays.

    Under a latency budget that is the smallest precision in which the untrained unscaled network is faster than in
    float32 on the provider, for a search for one that is slower would end with less than the limit allows; and a share
    is one of the float32 file's latency, since that is what the user has. Else it is the smallest: whether it is
    faster, and accurate enough, is found out when the network is trained.
    """
    recipe = context.recipe
    if recipe.export.precision != AUTO:
        return recipe
    path = context.out / run_folder.PLAN
    if not path.exists() and (context.out / "search.json").exists() and _searched_for(recipe):
        raise RunError(f"{path}: file not found; it says what the search of this run was for: begin in another folder")
    if not path.exists():
        _ = context.data  # which may be such that precision must not be auto
        timed = any(costs()[name].timed for name in recipe.budget.names)
        (_fastest(context) if timed else PlannedPrecision(name=_by_size()[0])).write(path)
    planned = PlannedPrecision.read(path)
    name, budget = planned.name, recipe.budget
    if (share := budget.latency_share) is not None:
        budget = budget.model_copy(update={"latency": f"{share / planned.ratio:.6g}x"})
    plain, points = precisions()[name].plain, recipe.export.tolerance_points
    settled = {
        "precision": name,
        "tolerance_points": None if plain else USUAL_POINTS if points is None else points,
        "qat_epochs": recipe.export.qat_epochs if precisions()[name].simulated is not None else 0,
    }
    return recipe.model_copy(update={"export": recipe.export.model_copy(update=settled), "budget": budget})


def plan_remarks(out: Path, recipe: Recipe) -> list[str]:
    """What the user must know of a share of the latency, in a run with such a plan.

    Args:
        out: its folder
        recipe: resolved
    """
    path, share = out / run_folder.PLAN, recipe.budget.latency_share
    if share is None or not path.exists():
        return []
    planned = PlannedPrecision.read(path)
    if planned.ratio == 1:
        return []
    return [
        f"precision auto: untrained, the unscaled network takes {planned.ratio:.3g} times as long in {planned.name} as "
        f"in float32; {share * planned.ratio:.3g} of the float32 file's latency is {share:.3g} of that"
    ]


def _searched_for(recipe: Recipe) -> bool:
    """Whether a search for the budget depends on the precision."""
    return any("export" in costs()[name].depends_on for name in recipe.budget.names)


def _by_size() -> list[str]:
    return sorted(precisions(), key=lambda name: precisions()[name].bytes_of_value)


def _fastest(context: RunContext) -> PlannedPrecision:
    """The smallest precision that is faster than float32 on the provider, by the unscaled network, untrained."""
    recipe, reference = context.recipe, context.reference()
    context.show("measuring in which precision the unscaled network is fast")
    model, inputs = build(reference), noise_like(example_input(reference))
    scatter_(model)
    samples = samples_of(inputs)
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        source = Path(folder) / "source.onnx"
        export_onnx(model, source, [inputs], opset=recipe.export.written_opset, tolerance=float("inf"))
        plain = next(name for name, one in precisions().items() if one.plain)
        files = {}
        for name in reversed(_by_size()):  # float32 first
            precision, scheme, path = precisions()[name], None, Path(folder) / f"{name}.onnx"
            form = form_of(recipe, context.data, name)
            try:
                if precision.schemes:
                    tried = Path(folder) / name
                    tried.mkdir()
                    scheme, _ = choose(
                        precision, source, tried, samples=samples, config=recipe.measured, refined=form.refined
                    )
                finish(source, path, form, scheme, samples)
            except ExportError as error:
                if name == plain:
                    raise
                context.show(f"{name} is left out: {error}")
                continue
            files[name] = path
        for name in _by_size():
            if (
                name in files
                and name != plain
                and (ratio := compared(files[plain], files[name], recipe, _WIDTH)).high < 1
            ):
                return PlannedPrecision(name=name, ratio=ratio.high)
    return PlannedPrecision(name=plain)
