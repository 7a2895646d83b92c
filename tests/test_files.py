import errno
import os
import stat

import pytest

from compressor import files
from compressor.errors import RunError
from compressor.files import parse_json, read_json, read_text, replace_atomic, write_atomic, write_json


def test_folders_are_made_and_text_is_utf8(tmp_path):
    path = tmp_path / "a b" / "ü" / "note.txt"
    write_atomic(path, "größer × 2")
    assert path.read_bytes() == "größer × 2".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "kept.txt"
    write_atomic(path, "old")

    def fail(beside):
        assert beside.parent == tmp_path  # a rename is atomic only within a file system
        beside.write_text("half")
        assert path.read_text() == "old"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replace_atomic(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_a_file_that_its_writer_made_private(tmp_path):
    plain, path = tmp_path / "plain", tmp_path / "private"
    plain.touch()

    def private(beside):
        beside.touch(mode=0o600)
        beside.chmod(0o600)

    replace_atomic(path, private)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")

    def disk_full(beside):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"file/below.txt: cannot be written: (Not a directory|File exists)"):
        write_atomic(file / "below.txt", "x")
    with pytest.raises(RunError, match=r"new.txt: cannot be written: No space left on device"):
        replace_atomic(tmp_path / "new.txt", disk_full)
    with pytest.raises(RunError, match="cannot be written"):
        write_atomic(tmp_path / ("x" * 250), "x")
    assert list(tmp_path.iterdir()) == [file]


def test_json_is_sorted_and_reads_back(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"b": [1, 2.5, None], "a": "ü"})
    assert read_json(path) == {"a": "ü", "b": [1, 2.5, None]}
    assert path.read_text().index('"a"') < path.read_text().index('"b"')
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert read_json(path) == {"a": "ü", "b": [1, 2.5, None]}


def test_json_that_cannot_be_read(tmp_path):
    (tmp_path / "half.json").write_text('{"a": ')
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match=r"half.json: not valid JSON"):
        read_json(tmp_path / "half.json")
    with pytest.raises(RunError, match=r"binary.json: not a text file in UTF-8"):
        read_json(tmp_path / "binary.json")
    with pytest.raises(RunError, match=r"none.json: file not found"):
        read_json(tmp_path / "none.json")
    with pytest.raises(RunError, match=r"cannot be read: Is a directory"):
        read_json(tmp_path)


def test_a_key_that_a_json_file_lacks_is_told_with_the_file(tmp_path):
    path = tmp_path / "search.json"
    write_json(path, {"outer": {"limits": {"params": 13}}})
    record = read_json(path)
    assert record["outer"]["limits"] == {"params": 13}
    assert record.get("other") is None
    with pytest.raises(RunError, match=r"search.json: lacks the key 'macs'"):
        record["outer"]["limits"]["macs"]


def test_json_that_is_nested_too_deeply(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(RunError, match=r"deep.json: not valid JSON: nested too deeply"):
        read_json(tmp_path / "deep.json")


def test_a_number_of_thousands_of_digits_is_refused(tmp_path):
    (tmp_path / "long.json").write_text("9" * 9999)
    with pytest.raises(RunError, match=r"long.json: not valid JSON: "):
        read_json(tmp_path / "long.json")


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 65 + "]" * 65, '{"a":' * 65 + "1" + "}" * 65])
def test_json_deeper_than_anything_of_ours_is_refused(text):
    with pytest.raises(ValueError, match="nested"):
        parse_json(text)


def test_json_of_usual_depth_is_read():
    assert parse_json("[" * 60 + "1" + "]" * 60)


def test_a_file_larger_than_any_of_ours_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MOST_BYTES", 10)
    (tmp_path / "a.json").write_text("[1, 2, 3, 4]")
    with pytest.raises(RunError, match=r"a\.json: has 12 bytes; files of a run have at most 10$"):
        read_json(tmp_path / "a.json")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match=r"pipe: is not a file$"):
        read_text(tmp_path / "pipe")
