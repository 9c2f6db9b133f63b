"""A C file compiled at first use: what is kept, what is not believed, what happens without a compiler."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.ops.compilation import FLAGS, file_stem, load_compiled, processor

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "answer.c"
    path.write_text("int answer(void) { return 42; }\n")
    return path


def kept(tmp_path):
    return sorted((tmp_path / "cache" / "kernels").glob("*"))


def answer(found):
    assert found.library is not None, found.reason
    return found.library.answer()


def compiler_says(monkeypatch, tmp_path, script):
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))


def test_a_file_is_compiled_once(source, tmp_path, monkeypatch):
    assert answer(load_compiled(source)) == 42
    assert len(kept(tmp_path)) == 1
    compiler_says(monkeypatch, tmp_path, "exit 1")
    assert answer(load_compiled(source)) == 42


def test_another_source_other_flags_and_another_processor_have_another_file(source):
    stems = {
        file_stem(source, FLAGS, processor()),
        file_stem(source, (), processor()),
        file_stem(source, FLAGS, "Z80"),
    }
    source.write_text("int answer(void) { return 43; }\n")
    assert len(stems | {file_stem(source, FLAGS, processor())}) == 4


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:600], lambda whole: whole + b"x"])
def test_a_damaged_file_is_not_loaded_but_made_again(source, tmp_path, damage):
    load_compiled(source)
    path = kept(tmp_path)[0]
    whole = path.read_bytes()
    path.unlink()  # this process has it mapped
    path.write_bytes(damage(whole))
    assert answer(load_compiled(source)) == 42
    assert [one.read_bytes() for one in kept(tmp_path)] == [whole]


def test_a_file_that_others_may_have_written_is_not_loaded(source, tmp_path):
    load_compiled(source)
    path = kept(tmp_path)[0]
    path.parent.chmod(0o777)
    planted = tmp_path / "planted.c"
    planted.write_text("int answer(void) { return 666; }\n")
    assert answer(load_compiled(source)) == 42
    assert ctypes.CDLL(str(path)).answer() == 42


def test_a_cache_that_takes_no_files_costs_time_only(source, tmp_path):
    (tmp_path / "cache").write_text("a file, no folder")
    assert answer(load_compiled(source)) == 42


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'answer.c:1: no such thing' >&2; exit 1", "no such thing"),
        ("exit 3", "status 3"),
        ("exit 0", "status 0"),
        (
            'for last; do [ "$before" = -o ] && echo no library > "$last"; before="$last"; done',
            "cannot be loaded",
        ),
    ],
)
def test_a_compiler_that_fails_is_the_reason(source, tmp_path, monkeypatch, script, said):
    compiler_says(monkeypatch, tmp_path, script)
    found = load_compiled(source)
    assert found.library is None
    assert said in found.reason
    assert "\n" not in found.reason


def test_many_processes_at_once_leave_one_file(source, tmp_path):
    program = (
        "import sys; from pathlib import Path; from groundup.ops.compilation import load_compiled as load\n"
    )
    program += "print(load(Path(sys.argv[1])).library.answer())"
    crowd = [
        subprocess.Popen([sys.executable, "-c", program, str(source)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert [one.communicate()[0].strip() for one in crowd] == [b"42"] * 4
    assert len(kept(tmp_path)) == 1


def test_the_switch_compiles_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setenv("GROUNDUP_KERNELS", "off")
    assert load_compiled(source).reason == "GROUNDUP_KERNELS=off"
    assert kept(tmp_path) == []


def test_the_kernels_source_is_beside_its_module():
    import groundup.ops.compilation

    assert (Path(groundup.ops.compilation.__file__).parent / "roi_align.c").exists()
