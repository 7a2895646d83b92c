import importlib
import subprocess
import sys

import pytest
from small import SMALL

PACKAGES = ("compressor", "compressor.costs", "compressor.data", "compressor.exporters", "compressor.pipeline")
PACKAGES += ("compressor.training",)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_there_and_others_are_not(package):
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match=rf"module '{package}' has no attribute 'nothing'; it has "):
        _ = module.nothing


def test_importing_the_packages_imports_no_torch():
    code = f"import sys, {', '.join(PACKAGES)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reading_a_recipe_imports_no_torch():
    code = "import sys; from compressor.recipe import parse_recipe\n"
    code += f"parse_recipe({SMALL!r}); sys.exit(bool({{'torch', 'matplotlib', 'scipy', 'onnx'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_that_plug_ins_know_still_work():
    from compressor.cost import of_widths
    from compressor.costs import largest_within
    from compressor.costs import of_widths as present
    from compressor.solve import largest_within as former

    assert (of_widths, former) == (present, largest_within)


def test_names_of_before_the_rooms_still_work():
    import compressor
    from compressor import dependency
    from compressor.architecture import Architecture
    from compressor.models import graph_of, plan_of
    from compressor.widths import plan_widths, remove_channels_, resize_

    assert Architecture is compressor.Architecture
    assert plan_of is graph_of
    found = (plan_widths, remove_channels_, resize_)
    assert found == (dependency.dependency_graph, dependency.remove_channels_, dependency.resize_)


def test_slices_have_their_earlier_name():
    from compressor.models import graph_of, reference_architecture

    graph = graph_of(reference_architecture("mlp", {}, 10, (1, 8, 8)))
    assert {group.units for group in graph.groups.values()} == {group.slices for group in graph.groups.values()}
    for owners in (*graph.owners.values(), *graph.producers("fc1")):
        assert owners.unit is owners.slice
