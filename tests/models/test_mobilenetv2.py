"""MobileNetV2: its two styles, and architectures of before there were two."""

import dataclasses

from compressor.costs import params_macs
from compressor.models import build_meta, follows, graph_of, prunable, reference_architecture


def test_an_architecture_written_before_there_were_styles_is_what_it_was():
    own = reference_architecture("mobilenetv2", {}, 10, (3, 32, 32), 0.25)
    old = dataclasses.replace(own, options={"shortcut": "identity"})
    assert build_meta(old).state_dict().keys() == build_meta(own).state_dict().keys()
    assert follows(old) == follows(own)
    assert graph_of(prunable(old)).groups.keys() == graph_of(prunable(own)).groups.keys()


def test_the_style_of_tissuenet_has_its_tables_counts():
    own = reference_architecture("mobilenetv2", {"style": "tissue"}, 100, (3, 32, 32))
    assert params_macs.params(own) == 2_369_380
    assert round(params_macs.macs(own) / 1e6, 1) == 64.9
