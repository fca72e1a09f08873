"""What the tests of all sources share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.polygon_server import KEY


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All log records of the test. The key must not be in them."""
    ours = logging.getLogger("maang")
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "maang")
    ours.addHandler(caplog.handler)  # a command that ran in this process may have detached the logger from the root
    yield caplog
    ours.removeHandler(caplog.handler)
    assert KEY not in caplog.text
