"""A day on the stand-in."""

from __future__ import annotations

from datetime import date

from tests.conftest import Maang
from tests.databricks.server import StandIn
from tests.polygon_server import PolygonServer, row

DAY = date(2025, 10, 14)


def test_smoke(databricks: StandIn, polygon: PolygonServer, maang: Maang) -> None:
    import time

    polygon.days[DAY] = [row(t, DAY) for t in ("META", "AAPL", "AMZN", "NFLX", "GOOGL")]
    for _ in range(3):
        databricks.statements.clear()
        t = time.time()
        done = maang("run-day", "--date", "2025-10-14", "-v")
        print(time.time() - t, done.code, done.out, done.err)
        print(len(databricks.statements), len(databricks.sessions), [s.__dict__ for s in databricks.sessions.values()])
        for s in databricks.statements:
            print("   ", " ".join(s.split())[:150])
    print(maang("show", "--date", "2025-10-14", "--table", "cumulative"))
    assert 0
