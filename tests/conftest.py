"""What several tests share: the published data, where it is at hand."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    "Folder of the published readings; the test is skipped where it is absent."
    if not SHARED_DATA.is_dir():
        pytest.skip("the published readings (../shared/data) are not on this machine")
    return SHARED_DATA
