"""In which precision a trained network ships: the one that was asked for, or the next if that costs too much.

Nobody knows before training what integers will cost a network, and whether they are faster depends on the provider
and on the layers: depth-wise convolutions may take longer in int8. So with `export.tolerance_points` the finished files
are compared: scores on images that are not of the test split, and times in pairs.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressor.bench import Conditions, Pairs, Ratio, measure_pairs
from compressor.data import DataSet, Split
from compressor.errors import ExportError
from compressor.exporters import Form, finish
from compressor.exporters.scheme_choice import calibration, choose, judged, points_lost
from compressor.files import copy_atomic
from compressor.pipeline.scoring import score_file
from compressor.recipe import Recipe, cost_title, costs
from compressor.recipe.precision import Precision, precisions
from compressor.training.tasks import task_of

_LOOKS, _PATIENCE = (4, 8, 16, 32), 60.0  # blocks of pairs, and seconds after which no further block is begun

_JUDGED = 10000  # images for validation at most: tenths of a point are asked for

Misses = Callable[[Path], list[str]]  # file → limits of the budget that it does not meet
Check = Callable[[Path, Form], object]  # raises ExportError where a file in a form is not what PyTorch computes


@dataclass(frozen=True)
class Weighed:
    """A finished file beside the float32 one.

    Attributes:
        points: that it loses, hundredths of a metric from 0 to 1; of others per cent of the float32 file's; below 0: it
            is better
        ratio: how many times as long it takes: median, lower and upper end of the 99 % interval
    """

    points: float
    ratio: tuple[float, float, float]

    def why_not(self, tolerance: float, small: bool) -> str | None:
        """What speaks against the file, in a sentence that begins with its name; None: nothing.

        Args:
            tolerance: points that it may lose
            small: its size counts, so that it need not be faster
        """
        if not math.isfinite(self.points):
            return "gives no finite score on validation images"
        if self.points > tolerance:
            return f"loses {self.points:.2f} points on validation images, more than {tolerance:g}"
        median, low, high = self.ratio
        if high >= 1 and not small:
            return f"is not faster than fp32: {median:.2f} times its latency ({low:.2f} to {high:.2f})"
        return None

    def to_json(self) -> dict[str, Any]:
        """As records have it."""
        return {"points": self.points if math.isfinite(self.points) else None, "ratio": list(self.ratio)}


_SAME = Weighed(0.0, (1.0, 1.0, 1.0))  # the float32 file beside itself


def finish_within(
    source: Path,
    target: Path,
    form: Form,
    recipe: Recipe,
    data: DataSet,
    *,
    misses: Misses | None,
    check: Check = lambda path, form: None,
    before: float | None = None,
) -> tuple[Form, dict[str, Any]]:
    """Bring a file into the form that is shipped, in the first precision that is worth it.

    Without `export.tolerance_points` that is the one asked for. Else each is compared with the float32 file, and one
    that loses more points, or is not faster (unless the budget limits the size of the file), gives way to the next
    larger one; so does one that cannot be made of this network, unless it is the one asked for. Limits come first:
    where no larger one meets the budget, the one asked for ships, and the record says so.

    Args:
        source: the plain float32 file
        target: of the finished one
        form: that is asked for
        recipe: its sections `budget`, `export` and `bench` are used
        data: for ranges of activations, and scores on its validation split
        misses: which limits a finished file does not meet, of those that can be read off the file; None: the precision
            is shipped as asked
        check: of the files of other precisions than the one asked for
        before: score that points are lost of; None: the float32 file's

    Returns:
        the form that was taken, and JSON values of its precision

    Raises:
        ExportError: it cannot be converted
    """
    tolerance, known = recipe.export.tolerance_points, precisions()
    if tolerance is None or misses is None or known[form.precision].plain:
        return form, finish_as(source, target, form, recipe, data)
    records: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="compressor-", dir=target.parent) as folder:

        def made(name: str) -> Path:
            path = Path(folder) / f"{name}.onnx"
            if name not in records:
                records[name] = finish_as(source, path, replace(form, precision=name), recipe, data)
            return path

        scored = _score(made(next(iter(known))), recipe, data) if before is None else before
        tried, unmet = _tried(form, recipe, data, made=made, misses=misses, check=check, before=scored)
        shipped = next((one["name"] for one in tried if one["rejected"] is None), form.precision)
        copy_atomic(made(shipped), target)
    gate = {
        "asked": form.precision,
        "tried": tried,
        "unmet": unmet,
        "fast_scheme": _has_fast(records[form.precision].get("scheme")),
        "plain_score": scored if math.isfinite(scored) else None,
    }
    notes = [note for note in (_note(tried, shipped, unmet), records[shipped]["note"]) if note]
    record = records[shipped] | {"gate": gate | _terms(recipe, data), "note": "; ".join(notes) or None}
    return replace(form, precision=shipped), record


def _tried(
    form: Form,
    recipe: Recipe,
    data: DataSet,
    *,
    made: Callable[[str], Path],
    misses: Misses,
    check: Check,
    before: float,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Weigh the precision asked for and larger ones, up to the first that nothing speaks against.

    Args:
        form: that is asked for
        recipe: as in `finish_within`, like `data`, `misses` and `check`
        data: see there
        made: precision → its finished file
        misses: see there
        check: see there
        before: score that points are lost of

    Returns:
        what was found of those that may ship; and {precision: why it may not}
    """
    tolerance, limited = recipe.export.tolerance_points, [costs()[name] for name in recipe.budget.names]
    assert tolerance is not None
    timed, small = [cost.name for cost in limited if cost.timed], any(cost.of_file for cost in limited)
    plain, tried, unmet = made(next(iter(precisions()))), list[dict[str, Any]](), dict[str, str]()
    for precision in _from(precisions()[form.precision]):
        try:
            path = made(precision.name)
            if tried:
                check(path, replace(form, precision=precision.name))
        except ExportError as error:
            if not tried:
                raise
            unmet[precision.name] = f"cannot be made: {error}"
            continue
        weighed = _SAME if precision.plain else weigh(plain, path, recipe, data, before)
        if tried:
            slower = weighed.ratio[0] > tried[0]["ratio"][0]  # than what was searched for
            if missed := [*misses(path), *(timed if slower else ())]:
                unmet[precision.name] = f"would not meet the budget ({' and '.join(map(cost_title, missed))})"
                continue
        why = None if precision.plain else weighed.why_not(tolerance, small)
        tried.append({"name": precision.name, **weighed.to_json(), "rejected": why})
        if why is None:
            break
    return tried, unmet


def _terms(recipe: Recipe, data: DataSet) -> dict[str, Any]:
    """By what files are judged."""
    judged_on, metric = len(_judged(recipe, data)), task_of(data).metric
    return {"tolerance_points": recipe.export.tolerance_points, "metric": metric, "judged": judged_on}


def weigh(plain: Path, path: Path, recipe: Recipe, data: DataSet, before: float) -> Weighed:
    """Compare a finished file with the float32 one in latency, in pairs, and with a score on the validation split."""
    after = _score(path, recipe, data)
    ratio = compared(plain, path, recipe)
    return Weighed(points_lost(before, after, task_of(data).better), (ratio.median, ratio.low, ratio.high))


def compared(plain: Path, path: Path, recipe: Recipe, width: float = math.inf) -> Ratio:
    """How many times as long a file takes as another.

    It is measured until it is known which is faster, and the upper end of the interval is no more than `width` times
    the lower one; or for a minute.
    """
    config = recipe.measured

    def decides(so_far: Pairs) -> bool:
        ratio = so_far.ratio()
        return not ratio.low < 1 <= ratio.high and ratio.high <= width * ratio.low

    pairs = measure_pairs(
        plain,
        path,
        Conditions(config.provider, config.batch, config.threads, recipe.seed),
        decides,
        looks=_LOOKS,
        max_seconds=_PATIENCE,
    )
    return pairs.ratio()


def _score(path: Path, recipe: Recipe, data: DataSet) -> float:
    """By the task's own metric: a function of the user's may have no part that files can be judged on."""
    return score_file(path, replace(data, metric=None), _judged(recipe, data), recipe.measured.threads).value


def _judged(recipe: Recipe, data: DataSet) -> Split:
    """What files are compared on: where points are counted, more than tell schemes apart."""
    if recipe.export.tolerance_points is None:
        return judged(data, recipe.seed)
    return judged(data, recipe.seed, _JUDGED)


def _has_fast(tried: Mapping[str, Any] | None) -> bool:
    """Whether any scheme that was tried was faster than float32."""
    return tried is not None and min(one["median_ms"] for one in tried["schemes"].values()) < tried["fp32"]["median_ms"]


def _from(asked: Precision) -> list[Precision]:
    """A precision and the larger ones."""
    larger = [one for one in precisions().values() if one.bytes_of_value > asked.bytes_of_value]
    return [asked, *sorted(larger, key=lambda one: one.bytes_of_value)]


def _note(tried: Sequence[Mapping[str, Any]], shipped: str, unmet: Mapping[str, str]) -> str | None:
    """Why another precision ships than the one asked for, or why that one does in spite of what it costs."""
    rejected = [f"{one['name']} {one['rejected']}" for one in tried if one["rejected"]]
    if not rejected:
        return None
    return f"{shipped} ships: {'; '.join([*rejected, *(f'{name} {what}' for name, what in unmet.items())])}"


def loses_too_much(written: Mapping[str, Any], recipe: Recipe) -> bool:
    """Whether what speaks against the precision asked for is its accuracy, which training may mend, and nothing else
    that keeps it from shipping. A scheme that was only taken since it loses least may be slow, and another fast.

    Args:
        written: JSON values that `finish_within` gave
        recipe: of the run
    """
    gate = written.get("gate")
    if gate is None:
        return False
    asked, small = gate["tried"][0], any(costs()[name].of_file for name in recipe.budget.names)
    lost = asked["points"] is None or asked["points"] > gate["tolerance_points"]
    return lost and (small or asked["ratio"][2] < 1 or gate["fast_scheme"] or written["name"] == gate["asked"])


def finish_as(source: Path, target: Path, form: Form, recipe: Recipe, data: DataSet) -> dict[str, Any]:
    """Bring a file into a form, by the best scheme of its precision; returns JSON values of the precision."""
    precision, provider = precisions()[form.precision], recipe.measured.provider
    record: dict[str, Any] = {"name": precision.name, "note": None}
    scheme, samples = None, []
    tried: dict[str, Any] = {}
    if precision.schemes:
        data = replace(data, metric=None)  # schemes are compared by the task's own
        split, task = _judged(recipe, data), task_of(data)
        samples = calibration(data, recipe.seed, recipe.export.calibration_images)
        with tempfile.TemporaryDirectory(prefix="compressor-", dir=target.parent) as folder:
            scheme, tried = choose(
                precision,
                source,
                Path(folder),
                samples=samples,
                config=recipe.measured,
                score=lambda path: score_file(path, data, split, recipe.measured.threads).value,
                better=task.better,
                tolerance=recipe.export.tolerance_points,
                refined=form.refined,
                sized=any(costs()[name].of_file for name in recipe.budget.names),
                fast_first=any(costs()[name].timed for name in recipe.budget.names),
            )
        record |= {"scheme": tried, "calibration": sum(map(len, samples)), "judged": len(split), "metric": task.metric}
    finish(source, target, form, scheme, samples)
    return record | {"note": precision.remark(target, provider, tried)}
