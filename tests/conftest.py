"""What every test shares: one thread, steady random examples, the real photographs where they are at hand."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets; tests that need it are skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GROUNDUP_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no real photographs: {folder.name} is absent; set GROUNDUP_SHARED to their folder")
    return folder
