"""CompressToBudget, a pass of Olive: a PyTorch model in, a trained ONNX model that meets the budget out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from olive.exception import OlivePassError
from olive.hardware import AcceleratorSpec
from olive.model import OliveModelHandler, ONNXModelHandler
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam
from olive.search.search_parameter import Categorical, SearchParameter

from compressor.files import copy_atomic, digest_of
from compressor.integrations.olive.ending import BudgetMissedError, PassFailed, loud
from compressor.integrations.olive.networks import reference_of
from compressor.integrations.olive.parameters import INPUTS, PASS, check_names, check_points, inputs_of, recipe_of
from compressor.pipeline.runner import run

_EVIDENCE = ("report.html", "report.json", "recipe.yaml")
_log = logging.getLogger("olive.passes.compressor")  # below the logger that Olive shows


class CompressToBudget(Pass):  # type: ignore[misc]  # olive has no types
    """Search, train, export and measure as `compressor run` does, for the model that Olive hands in."""

    def __init__(self, accelerator_spec: AcceleratorSpec, config: BasePassConfig, host_device: Any = None) -> None:
        with loud():
            read = inputs_of(config.model_dump())
        # Olive takes results from its cache by the configuration, which only names recipe files, data and code.
        super().__init__(accelerator_spec, config.model_copy(update={INPUTS: read}), host_device)

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        limit = dict[str, str | int | float]
        return {
            "budget": PassConfigParam(
                type_=limit | str,
                search_defaults=Categorical(["0.25x", "0.5x"]),
                description="the recipe's budget section, such as {params: 15k, latency: 0.5x}, or as one word: "
                "params=15k+macs=0.25x, or 0.25x of whatever the recipe limits (params if nothing)",
            ),
            "method": PassConfigParam(
                type_=str,
                search_defaults=Categorical(["neuralscale", "uniform"]),
                description="the recipe's search.method, with options if wished: neuralscale:iterations=3",
            ),
            "data": PassConfigParam(type_=dict[str, Any] | str, description="the recipe's data section"),
            "epochs": PassConfigParam(type_=float, description="the recipe's train.epochs"),
            "weights": PassConfigParam(
                type_=str,
                default_value="given",
                description="given: go on from the weights of the model; fresh: train from scratch",
            ),
            "recipe": PassConfigParam(
                type_=dict[str, Any] | str, description="a recipe, or some of its sections, for all that is not given"
            ),
            "overrides": PassConfigParam(type_=list[str], description="recipe values such as train.lr=0.01"),
            "missed": PassConfigParam(
                type_=str,
                default_value="fail",
                description="what a missed budget does: fail ends `olive run` with exit code 1; prune leaves this "
                "point out of a search",
            ),
            INPUTS: PassConfigParam(type_=str, description="set by the pass: a hash of recipe files, data and code"),
        }

    @classmethod
    def get_config_params(
        cls,
        accelerator_spec: AcceleratorSpec,
        config: dict[str, Any] | None = None,
        disable_search: bool | None = False,
    ) -> tuple[type[BasePassConfig], dict[str, Any], dict[str, SearchParameter]]:
        """What is fixed and what is searched; refuses what no recipe could be made of, before anything has run."""
        with loud():
            check_names(config or {})
            found: tuple[type[BasePassConfig], dict[str, Any], dict[str, SearchParameter]] = super().get_config_params(
                accelerator_spec, config, disable_search
            )
            _, fixed, searched = found
            check_points(fixed, {name: parameter.get_support() for name, parameter in searched.items()})
        return found

    def _run_for_config(
        self, model: OliveModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        parameters = config.model_dump()
        try:
            with loud():
                return _compressed(model, parameters, Path(output_model_path).with_suffix(""))
        except PassFailed as failed:
            if parameters["missed"] == "prune" and failed.about_budget:
                raise OlivePassError(str(failed)) from failed
            raise


def _compressed(model: OliveModelHandler, parameters: dict[str, Any], folder: Path) -> ONNXModelHandler:
    """Run the pipeline below Olive's folder for this output; goes on where an earlier, interrupted one stopped."""
    recipe = recipe_of(parameters, reference_of(model))
    out = folder / f"run-{digest_of(recipe.to_yaml() + (parameters[INPUTS] or ''), 12)}"
    report = run(recipe, out, resume=True, progress=_Logged())
    verdict = report["budget"]
    if not verdict["met"]:
        costs = ", ".join(
            f"{name} {verdict['costs'][name]:,.10g} of {limit:,.10g}" for name, limit in verdict["limits"].items()
        )
        raise BudgetMissedError(f"{PASS}: the budget is missed: {costs} (run folder: {out})")
    for name in ("model.onnx", *_EVIDENCE):
        copy_atomic(out / name, folder / name)
    shown = ("method", "params", "macs", "onnx_bytes", "accuracy", "metric", "latency_ms")
    summary = {key: report[key] for key in shown}
    return ONNXModelHandler(
        model_path=str(folder / "model.onnx"),
        model_attributes=(model.model_attributes or {})
        | {"compressor": summary | {"budget": verdict}, "additional_files": [str(folder / name) for name in _EVIDENCE]},
    )


class _Logged:
    """Progress as log lines, one for each new stage."""

    def __init__(self) -> None:
        self.stage = ""

    def __call__(self, stage: str, text: str, share: float | None) -> None:
        if stage != self.stage:
            _log.info("%s: %s: %s", PASS, stage, text)
            self.stage = stage
