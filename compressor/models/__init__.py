"""Networks: architectures as data, where networks come from, building and planning them, the zoo.

    vgg11_bn                     a network of the zoo, built at any widths
    torchvision:resnet18         a torchvision network, resized as compressor.dependency says
    timm:resnet10t               the same of timm (pip install 'onnx-compressor[timm]')
    mypackage.nets:make_net      your factory; called with num_classes= if it takes it, and the recipe's options
    onnx:net.onnx                a network of an ONNX file
    given:NAME                   a network that this process holds, see `offer`

Third parties add families through the entry-point group `compressor.models` (name → `Family`). Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.lazy import lazily

if TYPE_CHECKING:
    from compressor.models.architecture import Architecture as Architecture
    from compressor.models.given_source import offer as offer
    from compressor.models.networks import build as build
    from compressor.models.networks import build_meta as build_meta
    from compressor.models.networks import channels_last_ as channels_last_
    from compressor.models.networks import check_reference as check_reference
    from compressor.models.networks import check_task as check_task
    from compressor.models.networks import drawn as drawn
    from compressor.models.networks import example_input as example_input
    from compressor.models.networks import follows as follows
    from compressor.models.networks import given_network as given_network
    from compressor.models.networks import graph_of as graph_of
    from compressor.models.networks import has_weights as has_weights
    from compressor.models.networks import network_with_weights as network_with_weights
    from compressor.models.networks import plan_of as plan_of
    from compressor.models.networks import prunable as prunable
    from compressor.models.networks import published_weights as published_weights
    from compressor.models.networks import reference_architecture as reference_architecture
    from compressor.models.networks import remarks as remarks
    from compressor.models.networks import source_of as source_of
    from compressor.models.networks import stackable as stackable
    from compressor.models.networks import steps as steps
    from compressor.models.networks import supports_channels_last as supports_channels_last
    from compressor.models.networks import takes_tokens as takes_tokens
    from compressor.models.networks import units as units
    from compressor.models.networks import version_of as version_of
    from compressor.models.networks import with_options as with_options
    from compressor.models.networks import with_units as with_units
    from compressor.models.zoo_source import ZOO as ZOO
    from compressor.models.zoo_source import families as families

_NETWORKS = (
    *("build", "build_meta", "check_reference", "check_task", "example_input", "follows", "network_with_weights"),
    *(
        "drawn",
        "given_network",
        "graph_of",
        "plan_of",
        "prunable",
        "published_weights",
        "reference_architecture",
        "source_of",
        "stackable",
        "steps",
        "supports_channels_last",
    ),
    *("channels_last_", "has_weights", "remarks", "takes_tokens", "units", "version_of", "with_options", "with_units"),
)
_HOME = {
    **dict.fromkeys(_NETWORKS, "networks"),
    "Architecture": "architecture",
    "ZOO": "zoo_source",
    "families": "zoo_source",
    "offer": "given_source",
}
__all__ = sorted(_HOME)  # noqa: PLE0605

__getattr__, __dir__ = lazily(__name__, _HOME)
