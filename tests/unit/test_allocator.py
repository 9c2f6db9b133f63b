"""Freed memory is kept unless the user's own settings say otherwise, and what holds is said."""

import os
import subprocess
import sys

import pytest

from groundup.allocator import SWITCH

SAY = "from groundup.allocator import *; keep_freed_memory(); print(allocator_line())"
THEIRS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", SWITCH)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, f"allocator: keeps freed memory ({SWITCH}=system switches that off)"),
        ({SWITCH: "system"}, f"allocator: as the system has it ({SWITCH}=system)"),
        ({"MALLOC_ARENA_MAX": "2"}, "allocator: as MALLOC_ARENA_MAX says"),
    ],
)
def test_the_users_own_settings_stand_and_what_holds_is_said(settings, line):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(THEIRS)}
    done = subprocess.run(
        [sys.executable, "-c", SAY], env=kept | settings, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == line
