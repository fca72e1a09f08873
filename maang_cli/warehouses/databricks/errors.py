"""Translates what the connector raises: what a retry may heal, what the warehouse refused, and what waiting can't fix.

The connector's exceptions have no SQLSTATE, so it is read from the message, where Databricks puts it:
`[CONDITION] text SQLSTATE: 42P01` (https://docs.databricks.com/en/error-messages/).
"""

import re
from collections.abc import Callable
from http import HTTPStatus

import urllib3.exceptions
from databricks.sql import exc as driver

from maang_cli import retries
from maang_cli.errors import MaangError, WarehouseDenied, WarehouseFailed
from maang_cli.retries import FAILED_STATEMENT_SECONDS, UNREACHABLE_SECONDS

GATE = "maang: the gate refuses these rows"
"""What the publishing statement raises; the engine's message contains it."""
AGAIN = "run the same command again"
_HISTORY = "see the statement in the warehouse's query history"


class Transient(retries.Transient):
    """This attempt failed, and the next one may succeed."""

    def __init__(
        self,
        what: str,
        *,
        retry_seconds: float | None = None,
        after: float | None = None,
        session_lost: bool = False,
        hint: str = f"{AGAIN} later; a stopped warehouse takes minutes to start (MAANG_WAREHOUSE_WAIT)",
    ) -> None:
        super().__init__(what, after)
        self.retry_seconds = retry_seconds
        """The retry budget for this kind of failure; None: MAANG_WAREHOUSE_WAIT."""
        self.session_lost = session_lost
        """Whether the session is of no use any more."""
        self.hint = hint
        """For the error, if the budget runs out."""


class Refusal(Exception):
    """The warehouse refused a statement. A caller that expects this kind handles it; for all others `error` is raised."""

    def __init__(self, error: MaangError) -> None:
        super().__init__(error.message)
        self.error = error


class Missing(Refusal):
    """The table or the schema does not exist."""


class AlreadyExists(Refusal):
    """Another run created it first."""


class Conflict(Refusal):
    """Another writer committed first."""


class GateRaised(Refusal):
    """The publishing statement's own `raise_error`."""


class NoHistory(Refusal):
    """The table's history does not reach back to the requested time."""


class NothingSince(Refusal):
    """Nothing was committed since the requested time: the table is still as it was then."""


class Denied(Refusal):
    """A grant is missing."""


class Unfit(Refusal):
    """The statement does not fit the tables."""


def starting(what: str) -> Transient:
    """The SQL warehouse is not ready. Its session is of no use: a new one is needed when it is."""
    return Transient(f"starting, or at capacity ({what})", session_lost=True)


def cancelled() -> WarehouseFailed:
    """The error of a statement that ended in the warehouse without success and without a message."""
    return WarehouseFailed(
        "the statement was cancelled in the warehouse, by an administrator or by STATEMENT_TIMEOUT", hint=f"{AGAIN}; {_HISTORY}"
    )


def translated(exc: Exception) -> Exception:
    """What the connector or urllib3 raised, as a Transient, a Refusal, or a MaangError.

    Whatever can't be foreseen, such as a KeyError inside the connector, is an answer that can't be used.
    """
    if isinstance(exc, urllib3.exceptions.HTTPError):
        return _network(exc)
    if isinstance(exc, ImportError):  # the connector needs a module that it does not have: SQLSTATE KP001, a real-time warehouse
        return WarehouseDenied(
            "the host does not speak the protocol of SQL warehouses",
            hint="set DATABRICKS_HTTP_PATH to a serverless or pro SQL warehouse",
        )
    if isinstance(exc, driver.ServerOperationError):
        return _refused(str(exc.message or "the statement failed without a message"))
    if isinstance(exc, driver.RequestError):
        return _request(exc)
    if isinstance(exc, driver.OperationalError) and (found := re.search(r"unsuccessful: (\d{3})", str(exc))):
        return _volume(int(found.group(1)))
    text = " ".join(str(exc).split())
    if "SessionHandle" in text or "closed server side" in text or "closed cursor" in text:
        return Transient("the session has expired", after=0, session_lost=True)
    if isinstance(exc, driver.DatabaseError) and ("SQLSTATE" in text or _CONDITION.match(text) or _is_starting(text)):
        return _refused(text)
    if isinstance(exc, driver.Error | OSError):
        return Transient(text[:200] or type(exc).__name__, retry_seconds=UNREACHABLE_SECONDS)
    return WarehouseFailed(f"the answer can't be used ({type(exc).__name__}: {text[:200]})", hint=f"{AGAIN}; {_HISTORY}")


def _network(exc: urllib3.exceptions.HTTPError) -> Exception:
    reason = exc.reason if isinstance(exc, urllib3.exceptions.MaxRetryError) and exc.reason else exc
    detail = str(reason)
    if isinstance(reason, urllib3.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in detail:
        why = re.search(r"verify failed: ([^(]+)", detail)
        return WarehouseDenied(
            "the certificate can't be verified" + (f": {why.group(1).strip()}" if why else ""),
            hint="check DATABRICKS_HOST; behind a proxy of your own, set SSL_CERT_FILE to its certificate authority",
        )
    if isinstance(reason, urllib3.exceptions.ResponseError):
        return WarehouseDenied(
            "the host answered with a redirect; it is not a Databricks workspace", hint="check DATABRICKS_HOST"
        )
    for kind, text in (
        (urllib3.exceptions.NameResolutionError, "the host's name can't be resolved"),
        (urllib3.exceptions.NewConnectionError, "connection refused" if "refused" in detail else "no connection"),
        (urllib3.exceptions.ConnectTimeoutError, "no connection in time"),
        (urllib3.exceptions.ReadTimeoutError, "no answer in time"),
        (urllib3.exceptions.SSLError, "TLS failed: " + detail.partition("(_ssl")[0].strip("( ")),
        (urllib3.exceptions.ProtocolError, "the connection broke off"),
    ):
        if isinstance(reason, kind):
            return Transient(text, retry_seconds=UNREACHABLE_SECONDS)
    return Transient(type(reason).__name__, retry_seconds=UNREACHABLE_SECONDS)


def _request(exc: driver.RequestError) -> Exception:
    """Usually an HTTP status other than 200, which the connector puts into the context."""
    context = dict(exc.context) if isinstance(exc.context, dict) else {}
    code, detail = context.get("http-code"), str(context.get("error-message") or "").strip(": ")
    if not isinstance(code, int) or code == HTTPStatus.OK:
        return Transient("the connection broke off", retry_seconds=UNREACHABLE_SECONDS)
    answered = f"HTTP {code}" + (f", {detail}" if detail else "")
    if code == HTTPStatus.BAD_REQUEST and _is_starting(detail):
        return starting(answered)
    if code in (401, 403):
        return WarehouseDenied(
            f"the host answered {answered}",
            hint="check DATABRICKS_TOKEN (or the service principal), and that it may use the warehouse (CAN USE)",
        )
    if code in (429, 503):
        delay = context.get("bounded-retry-delay")
        state = "starting, or at capacity" if code == 503 else "rate-limited"
        return Transient(f"{state} ({answered})", after=float(delay) if isinstance(delay, int | float) and delay > 1 else None)
    if code >= 500 or code == 408:
        return Transient(answered, retry_seconds=UNREACHABLE_SECONDS)
    return WarehouseDenied(f"the host answered {answered}", hint="check DATABRICKS_HOST and DATABRICKS_HTTP_PATH")


def _volume(code: int) -> Exception:
    if code in (400, 401, 403, 404):
        return WarehouseDenied(
            f"the volume's storage answered HTTP {code}",
            hint="check that MAANG_VOLUME exists, with READ VOLUME and WRITE VOLUME granted",
        )
    return Transient(f"the volume's storage answered HTTP {code}", retry_seconds=UNREACHABLE_SECONDS)


_CONDITION = re.compile(r"\[([A-Z0-9_.]+)\]|(PERMISSION_DENIED):")
_STARTING = re.compile(
    r"has not been initialized or had already closed|Couldn't create directory /local_disk0/"
    r"|is not ready to accept connections|(warehouse|endpoint|cluster)\b.* was stopped",
    re.IGNORECASE,
)
"""What a SQL warehouse says while it starts or stops, if it does not answer with HTTP 503."""


def _is_starting(text: str) -> bool:
    # Only an answer that names no condition: "try again later" is also the end of other messages.
    return bool(_STARTING.search(text)) or ("try again later" in text and not _CONDITION.match(text))


def _denied(text: str) -> Refusal:
    return Denied(WarehouseDenied(text, hint="ask an administrator for the grants that docs/databricks.md lists"))


def _failed(kind: type[Refusal], hint: str) -> Callable[[str], Refusal]:
    return lambda text: kind(WarehouseFailed(text, hint=hint))


def _cancelled(text: str) -> Refusal:
    return Refusal(WarehouseFailed(f"the statement was cancelled in the warehouse: {text}", hint=f"{AGAIN}; {_HISTORY}"))


def _unusable(kind: type[Refusal], hint: str) -> Callable[[str], Refusal]:
    return lambda text: kind(WarehouseDenied(text, hint=hint))


_RULES: tuple[tuple[str, str, Callable[[str], Exception]], ...] = (
    # condition, SQLSTATE, meaning; the first match counts
    (
        r"(OPERATION|QUERY|STATEMENT|JOB)_CANCEL|.*EXECUTION_TIMEOUT",
        "HY008|57KD0",
        _cancelled,
    ),
    (
        r"INTERNAL_ERROR|.*TEMPORARILY|.*UNAVAILABLE|DELTA_FILE_NOT_FOUND",  # the last one: a file was replaced under a reader
        "08...|57...|58...|XX...",
        lambda text: Transient(text, retry_seconds=FAILED_STATEMENT_SECONDS),
    ),
    (r"INSUFFICIENT_PERM|PERMISSION_DENIED|UNAUTHORIZED|ACCESS_DENIED", "42501", _denied),
    (r".*QUOTA|.*RESOURCE_EXHAUSTED|.*LIMIT_EXCEEDED", "5[34]...", _failed(Refusal, "ask an administrator to raise the quota")),
    (
        r".*CATALOG.*",
        "42P08",
        _unusable(Refusal, "set --schema or MAANG_SCHEMA to catalog.schema, with a catalog that exists"),
    ),
    (r".*ALREADY_EXISTS", "42P0[67]", _failed(AlreadyExists, AGAIN)),
    (r"(TABLE_OR_VIEW|SCHEMA|DELTA_TABLE|DELTA_PATH)_NOT_FOUND|NO_SUCH_", "42P01|42704", _failed(Missing, AGAIN)),
    (r".*CONCURRENT|.*CONFLICT", "2D521|40...", _failed(Conflict, AGAIN)),
    (r".*TIMESTAMP_GREATER", "", _unusable(NothingSince, "give --as-of an earlier time")),
    (r".*TIMESTAMP.*(EARLIER|COMMIT)|.*TIME_TRAVEL_BEYOND", "", _unusable(NoHistory, "give --as-of a later time")),
    (r"", "42...|22...|0A...", _unusable(Unfit, _HISTORY)),
)


def _refused(text: str) -> Exception:
    text = " ".join(text.split())
    named = _CONDITION.match(text)
    condition = (named.group(1) or named.group(2)) if named else ""
    state = (re.findall(r"SQLSTATE:? (\w{5})", text) or [""])[-1]
    if GATE in text:
        return GateRaised(WarehouseFailed(GATE, hint=AGAIN))
    short = text[:300] + ("..." if len(text) > 300 else "")
    if _is_starting(text):
        return starting(short)
    if not condition and re.search(r"\bcancell?ed\b", text, re.IGNORECASE):
        return _cancelled(short)
    if "Presigned URLs API is not enabled" in text:
        return _unusable(Refusal, "ask an administrator to enable presigned URLs for volumes; MAANG_VOLUME needs them")(short)
    for name, states, meaning in _RULES:
        if (name and re.match(name, condition)) or (states and re.fullmatch(states, state)):
            return meaning(short)
    return Refusal(WarehouseFailed(short, hint=f"{AGAIN}; {_HISTORY}"))
