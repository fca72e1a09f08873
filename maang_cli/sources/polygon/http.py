"""Polygon as `sources.http` has to know it: how it refuses a call, and what each refusal means."""

import json
from typing import NoReturn

from maang_cli.errors import NotPublishedYet, SourceDenied, SourceFailed
from maang_cli.sources.http import Vendor
from maang_cli.sources.polygon.settings import PolygonSettings

MAX_REASON_BYTES = 10_000
"""The body of a refusal is one sentence in an envelope; what is far larger does not come from the API."""


class NotInPlan(SourceDenied):
    """The plan does not include what was requested."""


class BeyondPlan(NotInPlan):
    """The plan's history does not reach back to the requested session."""


class NotFound(SourceDenied):
    """There is no such endpoint at this address."""


def vendor(settings: PolygonSettings) -> Vendor:
    """Polygon, with this address and key."""
    key = settings.token.get_secret_value()
    return Vendor(settings.url, key, _reason, _refuse, "MAANG_POLYGON_URL", "MAANG_RETRY_SECONDS")


def _reason(body: bytes) -> str:
    """The text is in `error` for the status ERROR, and in `message` for NOT_AUTHORIZED and NOT_FOUND."""
    if len(body) > MAX_REASON_BYTES:
        return ""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    text = (document.get("error") or document.get("message")) if isinstance(document, dict) else None
    return text if isinstance(text, str) else ""


def _refuse(status: int, text: str) -> NoReturn:
    if status == 401:
        raise SourceDenied(text, hint="set POLYGON_TOKEN to a valid key")
    if status == 403 and "before end of day" in text:
        raise NotPublishedYet(text, hint="this plan serves a session after its end: try again in the morning")
    if status == 403:
        kind = BeyondPlan if "timeframe" in text else NotInPlan
        raise kind(text, hint="request a session within the plan's history, or change the plan")
    if status in (400, 404):
        raise (NotFound if status == 404 else SourceDenied)(text, hint="check MAANG_POLYGON_URL")
    raise SourceFailed(text, hint="run the same command again")
