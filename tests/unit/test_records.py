"""What reaches the disk is whole, or not there."""

import multiprocessing
import os
import resource
import signal

import pytest

from groundup.errors import CheckpointError
from groundup.records import Log, lock_folder, read_json, write_json, write_whole


def test_a_written_value_reads_back(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"x": [1, None, "\u00fc"]})
    assert read_json(tmp_path / "a" / "b.json") == {"x": [1, None, "\u00fc"]}


def test_a_file_is_open_to_whom_the_umask_lets(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o027, 0o640)):
        before = os.umask(mask)
        try:
            write_whole(tmp_path / "value", b"x")
        finally:
            os.umask(before)
        assert (tmp_path / "value").stat().st_mode & 0o777 == mode


def test_a_name_that_is_not_unicode_reads_back(tmp_path):
    write_json(tmp_path / "b.json", {"file": "photo\udcff.jpg", "\udcfe": "\u65e5"})
    assert read_json(tmp_path / "b.json") == {"file": "photo\udcff.jpg", "\udcfe": "\u65e5"}


def write_beyond_limit(path, size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write_whole(path, b"x" * size)
    except CheckpointError as error:
        os._exit(7 if "disk full" in str(error) else 8)
    os._exit(0)


def test_a_full_disk_leaves_the_old_content_and_no_draft(tmp_path):
    path = tmp_path / "value"
    write_whole(path, b"old")
    child = multiprocessing.get_context("fork").Process(target=write_beyond_limit, args=(path, 5000))
    child.start()
    child.join()
    assert child.exitcode == 7
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["value"]


def test_a_line_cut_off_by_a_kill_is_not_a_record(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.append({"a": 1})
    log.append({"a": 2})
    with log.path.open("ab") as file:
        file.write(b'{"a": 3')
    assert list(log.read()) == [{"a": 1}, {"a": 2}]
    log.keep(lambda record: record["a"] == 2)
    assert log.path.read_bytes() == b'{"a":2}\n'


def test_a_folder_has_one_holder(tmp_path):
    with lock_folder(tmp_path), pytest.raises(CheckpointError, match="in use"), lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):
        pass


def test_damage_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    for name, message in (("x.json", "damaged"), ("y.json", "cannot be read")):
        with pytest.raises(CheckpointError, match=message):
            read_json(tmp_path / name)
