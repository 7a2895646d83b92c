import pytest

from compressor import errors
from compressor.errors import CompressorError, UnavailableError, not_one_of, on_one_line

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CompressorError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_in_the_printed_tree_and_has_its_exit_code(kind):
    assert kind.__name__ in (errors.__doc__ or "")
    assert kind.__doc__
    assert kind.exit_code == (3 if kind is UnavailableError else 2)


def test_a_sentence_for_a_terminal_has_no_control_characters_and_no_pages():
    assert on_one_line("ünï \x1b[2J\n\u202e") == r"ünï \x1b[2J\n\u202e"
    assert on_one_line("模型\u3000می\u200cخواهم") == "模型\u3000می\u200cخواهم"
    long = on_one_line("a" * 10**6 + "z")
    assert len(long) < 1000
    assert (long[0], long[-1]) == ("a", "z")


def test_the_nearest_valid_name_is_offered():
    assert not_one_of("neuralscal", {"uniform", "neuralscale"}) == (
        "'neuralscal' is not one of neuralscale, uniform (did you mean neuralscale?)"
    )
    assert not_one_of("zzz", ["b", "a"]) == "'zzz' is not one of a, b"
    assert not_one_of(2, (1, 3)) == "2 is not one of 1, 3"
