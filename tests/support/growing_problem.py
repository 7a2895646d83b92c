"""Problems and settings that tests of growing share."""

from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.search import Problem
from compressor.search.methods.growing.indicators import IndicatorSettings
from compressor.training.trainer import Settings

FINAL = Settings(8, 8, lambda step, per_epoch: 0.05, 0.9, 5e-4)
INDICATORS = IndicatorSettings(
    rounds=8,
    steps=3,
    start=0.1,
    beta_max=100.0,
    temperature="structure",
    penalty=0.5,
    layer_penalty=0.1,
    redraw=1.0,
    lr=0.1,
    momentum=0.9,
    seed=0,
)


def problem_of(architecture, trainer, share, name="params", **more):
    limits = {name: share * params_macs.COSTS[name](architecture)}
    return Problem(architecture, Budget(limits), params_macs.COSTS, trainer, final=FINAL, **more)
