import pytest

from compressor.report.removal import removal_line, removal_section

REASON = "torch-pruning would leave dimension 0 of b.weight as it is"


def record(tracer, events):
    names = [name for name in ("a", "b", "c") if name not in tracer]
    return {"groups": 3, "version": "1.6.1", "torch_pruning": names, "tracer": tracer, "events": events}


@pytest.mark.parametrize(
    "trace",
    [
        lambda found: {"iterations": [], "removal": found},
        lambda found: {"iterations": [], "pruned": {"removal": found}},
        lambda found: {"iterations": [{"removal": record({}, {"torch_pruning": 1, "tracer": 0})}, {"removal": found}]},
    ],
)
def test_it_is_found_wherever_the_method_notes_it(trace):
    found = record({"b": REASON, "c": "x"}, {"torch_pruning": 4, "tracer": 2})
    line = removal_line({"trace": trace(found)})
    assert (
        line
        == f"channels of 1 of 3 groups removed by torch-pruning 1.6.1; b and 1 more by our tracer, because {REASON}"
    )
    page = str(removal_section({"trace": trace(found)}))
    assert "Channels of 1 of 3 groups removed by torch-pruning 1.6.1." in page
    assert all(f"<td>{text}</td>" in page for text in (REASON, "x"))


def test_nothing_is_said_of_a_method_that_removes_nothing():
    assert removal_line({"trace": {"iterations": []}}) == removal_line({}) == str(removal_section({})) == ""


@pytest.mark.parametrize(("by_tracer", "told"), [(0, ""), (1, "1 of 10")])
def test_single_events_that_were_left_to_the_tracer_are_counted(by_tracer, told):
    events = {"torch_pruning": 9, "tracer": by_tracer}
    line = removal_line({"trace": {"removal": record({}, events)}})
    assert line.startswith("channels of 3 of 3 groups removed by torch-pruning 1.6.1")
    assert ("our tracer" in line) == bool(told)
    assert told in line
