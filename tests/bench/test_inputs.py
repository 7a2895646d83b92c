from types import SimpleNamespace

import numpy as np
import pytest

from compressor.bench import BenchError, inputs
from compressor.bench.inputs import INPUT_SHAPE, TensorSpec, available_bytes, random_tensor, resolve_inputs


def session(notes=None, **shapes):
    """Stand in for a session whose inputs have these shapes: floats, or (type, shape); `notes` is its metadata."""
    nodes = []
    for name, shape in shapes.items():
        kind, axes = shape if isinstance(shape, tuple) else ("tensor(float)", shape)
        nodes.append(SimpleNamespace(name=name, type=kind, shape=axes))
    return SimpleNamespace(
        get_inputs=lambda: nodes, get_modelmeta=lambda: SimpleNamespace(custom_metadata_map=notes or {})
    )


def resolve(fake, batch=5, **shapes):
    return {spec.name: spec.shape for spec in resolve_inputs(fake, "m.onnx", batch, shapes)}


def refused(fake, batch=5, **shapes):
    with pytest.raises(BenchError) as caught:
        resolve(fake, batch, **shapes)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert message.startswith("m.onnx: ")
    assert "\n" not in message
    return message


BERT = {"ids": ("tensor(int64)", ["B", "seq"]), "mask": ("tensor(bool)", ["B", "seq"])}


def test_specs_carry_name_shape_and_dtype_in_the_order_of_the_model():
    specs = resolve_inputs(session(x=["N", 13], **BERT), "m.onnx", 5, {"seq": [7]})
    assert specs == (
        TensorSpec("x", (5, 13), "float32"),
        TensorSpec("ids", (5, 7), "int64"),
        TensorSpec("mask", (5, 7), "bool"),
    )
    assert [spec.nbytes for spec in specs] == [5 * 13 * 4, 5 * 7 * 8, 5 * 7]


def test_a_symbolic_axis_takes_one_size_in_all_inputs():
    assert resolve(session(**BERT), seq=[7]) == {"ids": (5, 7), "mask": (5, 7)}
    assert resolve(session(x=["N", "side", "side", 3]), side=[11]) == {"x": (5, 11, 11, 3)}


def test_a_whole_shape_tells_the_axes_that_other_inputs_share():
    assert resolve(session(**BERT), ids=["N", 7]) == {"ids": (5, 7), "mask": (5, 7)}
    assert resolve(session(**BERT), ids=["N", 7], seq=[3]) == {"ids": (5, 7), "mask": (5, 3)}


def test_n_in_a_whole_shape_is_the_batch():
    fake = session(x=["time", "N", 13])
    for batch in (1, 5, 8):
        assert resolve(fake, batch, x=[11, "N", 13]) == {"x": (11, batch, 13)}


def test_the_batch_may_be_another_axis_by_the_axis_names():
    assert resolve(session(x=["time", "b", 13]), time=[11], b=["N"]) == {"x": (11, 5, 13)}


def test_the_batch_axis_of_one_input_is_known_in_the_others():
    # The layers of a recurrent state come first, and are no batch.
    fake = session(x=["N", 13], state=[2, "N", 64])
    assert resolve(fake) == {"x": (5, 13), "state": (2, 5, 64)}
    assert resolve(session(x=["t", "b", 13], state=[2, "b", 64]), t=[11], b=["N"])["state"] == (2, 5, 64)
    assert resolve(session(x=["t", "b", 13], state=[2, "b", 64]), x=[11, "N", 13])["state"] == (2, 5, 64)
    for size in (4, 5):  # that it is as large as the batch makes no batch of it
        assert "'state' has a fixed batch of 2" in refused(session(x=["N", "s"], state=[2, "s"]), s=[size])


def test_the_name_of_an_input_wins_where_the_rank_fits():
    fake = session(seq=["N", "seq"], length=["seq", 3])
    assert resolve(fake, 5, seq=["N", 7]) == {"seq": (5, 7), "length": (7, 3)}
    assert resolve(fake, 5, seq=[7]) == {"seq": (5, 7), "length": (7, 3)}
    assert resolve(session(n=["n"], x=["N", "n"]), 5, n=["N"]) == {"n": (5,), "x": (5, 5)}


def test_scalars_and_models_without_inputs():
    assert resolve(session(x=["N", 3], s=[])) == {"x": (5, 3), "s": ()}
    assert resolve(session(x=["N", 3], s=[]), s=[]) == {"x": (5, 3), "s": ()}
    assert resolve(session(), 1) == {}
    assert "batch=5 is the size of no axis of the inputs: there are none" in refused(session())


def test_a_fixed_batch_is_that_or_refused():
    assert resolve(session(x=[3, 13]), 3) == {"x": (3, 13)}
    message = refused(session(x=[3, 13]))
    assert "input 'x' has a fixed batch of 3, not batch=5; measure with batch=3" in message


def test_a_symbolic_axis_needs_a_size():
    message = refused(session(x=["N", "time", 13]))
    assert "axis 1 of input 'x' has no fixed size (time)" in message
    assert "shapes={'time': [SIZE]} (--shape time=SIZE)" in message
    assert "3 numbers that fit ['N', 'time', 13]" in message


def test_an_unnamed_axis_needs_the_whole_shape():
    fake = session(x=[None, None, 13])
    message = refused(fake)
    assert "axis 1 of input 'x' has no fixed size (unnamed); give it one with shapes={'x': [...]}" in message
    assert resolve(fake, x=["N", 11, 13]) == {"x": (5, 11, 13)}
    assert resolve(session(x=[None, 13])) == {"x": (5, 13)}


def test_the_batch_must_be_the_size_of_some_axis():
    assert "batch=5 is the size of no axis of the inputs: x [1, 13]" in refused(session(x=["N", 13]), x=[1, 13])
    assert "batch=5 is the size of no axis" in refused(session(x=["N", 13]), N=[3])


@pytest.mark.parametrize("shape", [[5], [5, 12], [5, 13, 1], [-5, 13]])
def test_a_whole_shape_that_does_not_fit_is_refused(shape):
    assert "does not fit input 'x', which has ['N', 13]" in refused(session(x=["N", 13]), x=shape)


@pytest.mark.parametrize("sizes", [[], [-1], [7, 7]])
def test_an_axis_takes_one_size(sizes):
    assert "the axis 'seq' takes one size of 0 or more" in refused(session(**BERT), seq=sizes)


def test_an_unknown_name_names_inputs_and_axes():
    message = refused(session(**BERT), tokens=["N", 7])
    assert "shapes names 'tokens', which is not one of the inputs ids, mask; symbolic axes: B, seq" in message
    assert refused(session(x=[5, 13]), y=[1]).endswith("which is not one of the inputs x")


@pytest.mark.parametrize("size", ["B", "7", True])
def test_a_size_that_is_no_number_is_refused(size):
    assert f"shapes gives 'ids' the size {size!r}" in refused(session(**BERT), ids=["N", size])


@pytest.mark.parametrize(
    "kind",
    ["tensor(string)", "tensor(bfloat16)", "tensor(float8e4m3fn)", "seq(tensor(float))", "optional(tensor(int8))"],
)
def test_a_type_that_numpy_lacks_is_refused(kind):
    message = refused(session(x=(kind, ["N"])))
    assert (
        f"input 'x' has the type {kind}, which is not one of tensor(float), tensor(double), tensor(float16)" in message
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_normal(dtype):
    drawn = random_tensor(TensorSpec("x", (40, 41), dtype), np.random.default_rng(0))
    assert drawn.dtype == dtype
    assert abs(drawn.astype("float64").mean()) < 0.1
    assert drawn.astype("float64").std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint64", "bool"])
def test_integers_stay_below_two(dtype):
    drawn = random_tensor(TensorSpec("x", (40, 41), dtype), np.random.default_rng(0))
    assert drawn.dtype == dtype
    assert set(np.unique(drawn)) == {0, 1}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_values_are_seeded_and_scalars_are_arrays(dtype):
    def draw(seed, shape=(40, 41)):
        return random_tensor(TensorSpec("x", shape, dtype), np.random.default_rng(seed))

    np.testing.assert_array_equal(draw(0), draw(0))
    assert not np.array_equal(draw(0), draw(1))
    scalar = draw(0, ())
    assert isinstance(scalar, np.ndarray)
    assert scalar.shape == ()


@pytest.mark.parametrize(
    ("meminfo", "limit", "room"),
    [
        ("MemTotal: 9 kB\nMemAvailable:    3 kB\n", "", 3072),
        ("MemAvailable: 3 kB", "max\n", 3072),
        ("MemAvailable: 3 kB", "2048\n", 2048),
        ("", "2048", 2048),
        ("", "", None),
    ],
)
def test_memory_that_can_be_had(monkeypatch, meminfo, limit, room):
    monkeypatch.setattr(inputs, "_text", lambda path: meminfo if path == "/proc/meminfo" else limit)
    assert available_bytes() == room


@pytest.mark.parametrize("given", [{}, {"seq": [7]}, {"ids": ["N", 7]}])
def test_the_models_metadata_gives_a_length_unless_the_user_does(given):
    fake = session({INPUT_SHAPE: "[13]"}, ids=BERT["ids"])
    assert resolve(fake, **given) == {"ids": (5, 7 if given else 13)}


def test_the_metadata_leaves_the_batch_and_fixed_axes_alone():
    assert resolve(session({INPUT_SHAPE: "[3, 11, 13]"}, x=["N", 4, "N", "side"])) == {"x": (5, 4, 5, 13)}


@pytest.mark.parametrize("text", ["", "13", "[13, 7]", "[0]", "[true]", '["13"]', "[null]"])
def test_metadata_that_does_not_fit_the_input_tells_nothing(text):
    assert "axis 1 of input 'ids' has no fixed size" in refused(session({INPUT_SHAPE: text}, ids=BERT["ids"]))


def test_the_metadata_tells_nothing_of_several_inputs():
    assert "axis 1 of input 'ids' has no fixed size" in refused(session({INPUT_SHAPE: "[13]"}, **BERT))


def test_an_axis_may_have_no_length():
    """The cache of a decoder at its first token."""
    cache = session(x=["N", "seq", 16], past=["N", "past_seq", 16])
    assert resolve(cache, seq=[4], past_seq=[0]) == {"x": (5, 4, 16), "past": (5, 0, 16)}


def test_a_batch_that_is_written_as_0_is_any():
    assert resolve(session(x=[0, 13])) == {"x": (5, 13)}
    assert resolve(session(x=[0, 13]), x=["N", 13]) == {"x": (5, 13)}
