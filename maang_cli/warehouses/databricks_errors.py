"""What the connector raises, as ours: what heals by waiting, what the warehouse refused, what can't be used as it is.

The connector keeps SQLSTATE out of its exceptions, so it is read from the message, where Databricks puts it:
`[CONDITION] text SQLSTATE: 42P01` (https://docs.databricks.com/en/error-messages/).
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

import urllib3.exceptions
from databricks.sql import exc as driver

from maang_cli.errors import MaangError, WarehouseDenied, WarehouseFailed

if TYPE_CHECKING:
    from collections.abc import Callable

GATE = "maang: the gate refuses these rows"
"""What the publishing statement raises; found in whatever the engine wraps it in."""
NETWORK_SECONDS = 60
"""How long an address that can't be reached is tried: a wrong one is not worth the wait for a warehouse that starts."""
ERROR_SECONDS = 30
"""How long a statement is tried again that failed inside the warehouse."""
AGAIN = "run the same command again"
_HISTORY = "see the statement in the warehouse's query history"


class Transient(Exception):
    """This attempt failed in a way that the next one may not."""

    def __init__(
        self, what: str, *, patience: float | None = None, after: float | None = None, session_lost: bool = False
    ) -> None:
        super().__init__(what)
        self.patience = patience
        """Seconds that it is worth; None: all that the settings allow."""
        self.after = after
        """Seconds to wait before the next attempt; None: back off."""
        self.session_lost = session_lost


class Refusal(Exception):
    """The warehouse refused a statement; whoever sent it may know why. `error` is what it means to anyone else."""

    def __init__(self, error: MaangError) -> None:
        super().__init__(error.message)
        self.error = error


class Missing(Refusal):
    """There is no such table, or no such schema."""


class AlreadyThere(Refusal):
    """Another run created it first."""


class Conflict(Refusal):
    """Another writer committed first."""


class GateRaised(Refusal):
    """The publishing statement's own `raise_error`."""


class NoHistory(Refusal):
    """The table's history does not hold the time asked for."""


class Unfit(Refusal):
    """The statement does not fit the tables that it meets."""


def translated(exc: Exception) -> Exception:
    """A Transient, a Refusal, or a MaangError, for anything that the connector or urllib3 raises."""
    if isinstance(exc, urllib3.exceptions.HTTPError):
        return _network(exc)
    if isinstance(exc, ImportError):  # of a kernel that the connector has no part of: SQLSTATE KP001, a real-time warehouse
        return WarehouseDenied(
            "it does not speak the protocol of SQL warehouses",
            hint="set DATABRICKS_HTTP_PATH to a serverless or pro SQL warehouse",
        )
    if isinstance(exc, driver.ServerOperationError):
        return _refused(str(exc.message))
    if isinstance(exc, driver.RequestError):
        return _request(exc)
    if isinstance(exc, driver.OperationalError) and (found := re.search(r"unsuccessful: (\d{3})", str(exc))):
        return _volume(int(found.group(1)))
    said = " ".join(str(exc).split())
    if "SessionHandle" in said or "closed server side" in said or "closed cursor" in said:
        return Transient("the session has expired", after=0, session_lost=True)
    if isinstance(exc, driver.DatabaseError) and "SQLSTATE" in said:
        return _refused(said)
    return Transient(said[:200] or type(exc).__name__, patience=NETWORK_SECONDS)


def _network(exc: urllib3.exceptions.HTTPError) -> Exception:
    reason = exc.reason if isinstance(exc, urllib3.exceptions.MaxRetryError) and exc.reason else exc
    said = str(reason)
    if isinstance(reason, urllib3.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in said:
        why = re.search(r"verify failed: ([^(]+)", said)
        return WarehouseDenied(
            "the certificate is not to be trusted" + (f": {why.group(1).strip()}" if why else ""),
            hint="check DATABRICKS_HOST; behind a proxy of your own, set SSL_CERT_FILE to its certificate authority",
        )
    if isinstance(reason, urllib3.exceptions.ResponseError):
        return WarehouseDenied("it redirects, as no SQL warehouse does", hint="check DATABRICKS_HOST")
    for kind, text in (
        (urllib3.exceptions.NameResolutionError, "its name can't be resolved"),
        (urllib3.exceptions.NewConnectionError, "connection refused" if "refused" in said else "no connection"),
        (urllib3.exceptions.ConnectTimeoutError, "no connection in time"),
        (urllib3.exceptions.ReadTimeoutError, "no answer in time"),
        (urllib3.exceptions.SSLError, "TLS failed: " + said.partition("(_ssl")[0].strip("( ")),
        (urllib3.exceptions.ProtocolError, "the connection broke off"),
    ):
        if isinstance(reason, kind):
            return Transient(text, patience=NETWORK_SECONDS)
    return Transient(type(reason).__name__, patience=NETWORK_SECONDS)


def _request(exc: driver.RequestError) -> Exception:
    """An HTTP status that is not 200, mostly; the connector puts it into the context."""
    context = dict(exc.context) if isinstance(exc.context, dict) else {}
    code, said = context.get("http-code"), str(context.get("error-message") or "").strip(": ")
    if not isinstance(code, int) or code == HTTPStatus.OK:
        return Transient("the connection broke off", patience=NETWORK_SECONDS)
    answered = f"HTTP {code}" + (f", {said}" if said else "")
    if code in (401, 403):
        return WarehouseDenied(
            f"it answered {answered}",
            hint="check DATABRICKS_TOKEN (or the service principal), and that it may use the warehouse (CAN USE)",
        )
    if code in (429, 503):
        delay = context.get("bounded-retry-delay")
        state = "it is starting, or has no room" if code == 503 else "it asks for patience"
        return Transient(f"{state} ({answered})", after=float(delay) if isinstance(delay, int | float) and delay > 1 else None)
    if code >= 500 or code == 408:
        return Transient(answered, patience=NETWORK_SECONDS)
    return WarehouseDenied(f"it answered {answered}", hint="check DATABRICKS_HOST and DATABRICKS_HTTP_PATH")


def _volume(code: int) -> Exception:
    if code in (400, 401, 403, 404):
        return WarehouseDenied(
            f"the volume's storage answered HTTP {code}",
            hint="check that MAANG_VOLUME is there, with READ VOLUME and WRITE VOLUME granted",
        )
    return Transient(f"the volume's storage answered HTTP {code}", patience=NETWORK_SECONDS)


def _denied(said: str) -> Refusal:
    return Refusal(WarehouseDenied(said, hint="ask an administrator for the grants that docs/databricks.md lists"))


def _failed(kind: type[Refusal], hint: str) -> Callable[[str], Refusal]:
    return lambda said: kind(WarehouseFailed(said, hint=hint))


def _unusable(kind: type[Refusal], hint: str) -> Callable[[str], Refusal]:
    return lambda said: kind(WarehouseDenied(said, hint=hint))


_RULES: tuple[tuple[str, str, Callable[[str], Exception]], ...] = (
    # condition, SQLSTATE, what it is; the first that matches counts
    (
        r".*CATALOG.*",
        "42P08",
        _unusable(Refusal, "give --schema or MAANG_SCHEMA as catalog.schema, with a catalog that is there"),
    ),
    (r"INSUFFICIENT_PERM|PERMISSION_DENIED|UNAUTHORIZED|ACCESS_DENIED", "42501", _denied),
    (r".*QUOTA|.*RESOURCE_EXHAUSTED|.*LIMIT_EXCEEDED", "5[34]...", _failed(Refusal, "ask an administrator to raise the quota")),
    (r".*ALREADY_EXISTS", "42P0[67]", _failed(AlreadyThere, AGAIN)),
    (r"(TABLE_OR_VIEW|SCHEMA|DELTA_TABLE|DELTA_PATH)_NOT_FOUND|NO_SUCH_", "42P01|42704", _failed(Missing, AGAIN)),
    (r".*CONCURRENT|.*CONFLICT", "2D521|40...", _failed(Conflict, AGAIN)),
    (r".*TIMESTAMP.*(EARLIER|GREATER|COMMIT)", "", _unusable(NoHistory, "give --as-of another time")),
    (
        r"INTERNAL_ERROR|.*TEMPORARILY|.*UNAVAILABLE",
        "08...|57...|58...|XX...",
        lambda said: Transient(said, patience=ERROR_SECONDS),
    ),
    (r"", "42...|22...|0A...", _unusable(Unfit, _HISTORY)),
)


def _refused(text: str) -> Exception:
    said = " ".join(text.split())
    named = re.match(r"\[([A-Z0-9_.]+)\]|(PERMISSION_DENIED):", said)
    condition = (named.group(1) or named.group(2)) if named else ""
    state = (re.findall(r"SQLSTATE:? (\w{5})", said) or [""])[-1]
    if GATE in said:
        return GateRaised(WarehouseFailed(GATE, hint=AGAIN))
    short = said[:300] + ("..." if len(said) > 300 else "")
    for name, states, meaning in _RULES:
        if (name and re.match(name, condition)) or (states and re.fullmatch(states, state)):
            return meaning(short)
    return Refusal(WarehouseFailed(short, hint=f"{AGAIN}; {_HISTORY}"))
