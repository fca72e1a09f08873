"""A SQL warehouse on loopback: the connector's own Thrift protocol over HTTP, with Spark behind it, and faults on request.

Statements run as they are sent. This module does what Spark can't: `PUT` and `REMOVE` on a volume, which is a folder, and
`read_files`, `DESCRIBE DETAIL` and `information_schema.columns`, which become Spark's own syntax.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import SSLContext
from typing import Any, Protocol, Self
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
from databricks.sql.thrift_api.TCLIService import TCLIService, ttypes
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TTransport import TMemoryBuffer, TTransportException

from maang_cli.warehouses.databricks.sql import columns_of
from tests.warehouses.databricks.spark import Refusal

TOKEN = "dapi-test-3f9a61"
CLIENT_ID, CLIENT_SECRET = "client-71c2", "secret-test-c04e8b"
OAUTH_TOKEN = "oauth-test-9d1e44"
OIDC_TOKEN = "oidc-test-5b77d2"
"""Of an issuer that the workspace trusts."""
HTTP_PATH = "/sql/1.0/warehouses/0123456789abcdef"
VOLUME = "main.landing.bars"
POLL_SECONDS = 5
"""How long a poll waits for a running statement before it is answered, as in Apache Hive, which has the same protocol."""

OK = ttypes.TStatus(statusCode=ttypes.TStatusCode.SUCCESS_STATUS)
_READ_FILES = re.compile(r"read_files\('(/Volumes/[^']+)'[^)]*?schema => '((?:[^']|'')*)'\)", re.DOTALL)
_PUT = re.compile(r"PUT '__input_stream__' INTO '(/Volumes/[^']+)' OVERWRITE")
_REMOVE = re.compile(r"REMOVE '(/Volumes/[^']+)'")
_DETAIL = re.compile(r"DESCRIBE DETAIL (\S+)")
_COLUMNS = re.compile(r"(?:`\w+`\.)?`information_schema`\.`columns` WHERE table_schema = '(\w+)' AND table_name IN \(([^)]*)\)")


@dataclass(frozen=True)
class Fault:
    """What happens to a statement instead of its usual answer."""

    error: str = ""
    """The warehouse refuses the statement with this text."""
    runs: bool = False
    """Whether the statement runs first."""
    expired: bool = False
    """The session has expired: neither this statement nor a later one of the same session runs."""
    cut: bool = False
    """The connection breaks without an answer."""
    slow: bool = False
    """The statement keeps running until it is cancelled, and does nothing."""
    refused: bool = False
    """The error is the status of the answer, not the state of the statement, as from a warehouse that is starting."""
    ends: str = ""
    """The statement ends in this state, such as CANCELED_STATE, without a message."""
    polled: bool = False
    """The first answer says that the statement is running; its end is the answer to a poll. Otherwise it runs as usual."""
    result: str = "empty"
    """The result of a statement that `ends`: `direct` (in the first answer), or what the client gets if it asks for it: `empty`,
    `none` or `error`."""


@dataclass(frozen=True)
class HttpAnswer:
    """A plain HTTP answer to a POST, instead of the usual one."""

    status: int
    body: bytes = b"<html>busy</html>"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Session:
    user_agent: str
    configuration: dict[str, str]
    open: bool = True


@dataclass(frozen=True)
class Running:
    """A statement whose result is not in the first answer."""

    statement: str
    ends: int | None = None
    """The state that a poll finds; None: it is still running."""
    table: pa.Table = field(default_factory=lambda: pa.table({}))
    result: str = "empty"
    polled: threading.Event = field(default_factory=threading.Event)
    """Set when the client asks for its state, and so knows its id."""
    cancelled: threading.Event = field(default_factory=threading.Event)


class Engine(Protocol):
    """What runs the statements."""

    def run(self, statement: str) -> pa.Table: ...


class NoEngine:
    """Every statement succeeds and does nothing. A test without Spark takes a fraction of a second."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        """What a statement returns, by how it begins; all others return no rows."""

    def run(self, statement: str) -> pa.Table:
        found = (rows for start, rows in self.rows.items() if statement.startswith(start))
        return pa.Table.from_pylist(next(found, []))


class _Cut(TTransportException):  # type: ignore[misc]
    """Close the connection without an answer. The protocol's processor does not catch this class."""


class StandIn:
    """Serves one catalog, and records what it receives."""

    def __init__(self, catalog: Engine, folder: Path, tls: SSLContext | None = None) -> None:
        self.catalog = catalog
        self.folder = folder
        (folder / "Volumes" / VOLUME.replace(".", "/")).mkdir(parents=True)
        self.statements: list[str] = []
        self.sessions: dict[bytes, Session] = {}
        self.bytes_received = 0
        self.prints_columns = True
        """Whether SHOW TABLE EXTENDED shows the columns."""
        self.rows_changed: int | None = None
        """How many rows each statement says that it changed."""
        self.tokens = [TOKEN, OAUTH_TOKEN]
        """The tokens that are accepted."""
        self.grants: Callable[[], dict[str, Any]] = lambda: {"access_token": OAUTH_TOKEN, "expires_in": 3600}
        """The answer to a login with OAuth."""
        self.revoked = False
        """Whether the client secret is refused."""
        self.uploads: list[bytes] = []
        self.paths: list[str] = []
        self.script: deque[HttpAnswer] = deque()
        """Answers to the next POSTs to the warehouse, in order."""
        self.fault: Callable[[str], Fault | None] = lambda statement: None
        """Called before each statement; returns None if there is no fault."""
        self.before: Callable[[str], None] = lambda statement: None
        """Called before each statement, so that a test can do something at this moment."""
        self.rewrite: Callable[[str], str] = lambda statement: statement
        """Changes a statement before it runs."""
        self.running: dict[bytes, Running] = {}
        """The statements whose result was not in the first answer, by their ids."""
        self.forgets = False
        """Whether a statement that is running is forgotten when it is first polled, with HTTP 500."""
        self.cancelled: list[str] = []
        """The slow statements for which CancelOperation was received."""
        self.refuse_sessions: str | None = None
        """The SQLSTATE with which the warehouse refuses every session; None: it refuses none."""
        self.volume_status: Callable[[str, str], int] = lambda method, path: 200
        self._tls = tls is not None
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.storage_url = self.url
        """Where the files of volumes are."""
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._http.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point maang to this server."""
        return {
            "DATABRICKS_HOST": self.url,
            "DATABRICKS_HTTP_PATH": HTTP_PATH,
            "DATABRICKS_TOKEN": TOKEN,
            "MAANG_VOLUME": VOLUME,
        }

    def volume_files(self) -> list[Path]:
        return sorted(path for path in (self.folder / "Volumes").rglob("*") if path.is_file())

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """The statement's rows, directly from Spark."""
        found: list[dict[str, Any]] = self.catalog.run(statement).to_pylist()
        return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def carry_out(self, statement: str) -> tuple[pa.Table, bool]:
        """Run the statement. Returns its rows, and whether they ask the client to move a file."""
        for pattern, operation in ((_PUT, "PUT"), (_REMOVE, "REMOVE")):
            if found := pattern.fullmatch(statement.strip()):
                row = {"operation": operation, "presignedUrl": self.storage_url + found.group(1), "headers": "{}"}
                row |= {"localFile": "__input_stream__"} if operation == "PUT" else {}
                return pa.Table.from_pylist([row]), True
        if detail := _DETAIL.fullmatch(statement.strip()):
            size = f"SELECT coalesce(sum(file_size_in_bytes), 0) AS sizeInBytes FROM {detail.group(1)}.files"
            return self.catalog.run(size), False
        statement = self.rewrite(statement)
        statement = _COLUMNS.sub(self._columns, _READ_FILES.sub(self._parquet, statement))
        table = self.catalog.run(statement)
        if statement.startswith("SHOW TABLE EXTENDED") and not self.prints_columns:
            hidden = [re.sub(r"\nSchema: root\n.*", "\n", text, flags=re.DOTALL) for text in table["information"].to_pylist()]
            table = table.set_column(table.schema.get_field_index("information"), "information", pa.array(hidden, pa.string()))
        return table, False

    def _columns(self, found: re.Match[str]) -> str:
        """The information schema's rows for some tables of a schema, as a relation."""
        shown = self.catalog.run(f"SHOW TABLE EXTENDED IN {found.group(1)} LIKE '*'").to_pylist()
        wanted = re.findall(r"'(\w+)'", found.group(2))
        rows = [
            (
                table["tableName"],
                column.name,
                column.type.lower().replace("integer", "int"),
                "NO" if column.required else "YES",
                n,
            )
            for table in shown
            if table["tableName"] in wanted
            for n, column in enumerate(columns_of(table["information"]).values(), 1)
        ]
        return f"VALUES {', '.join(map(str, rows))} AS v(table_name, column_name, full_data_type, is_nullable, ordinal_position)"

    def _parquet(self, found: re.Match[str]) -> str:
        return f"parquet.`{self.folder}{found.group(1)}`"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that is gone: the test wanted this."""


class _Service:
    """Answers one HTTP request: those calls of the protocol that the connector makes."""

    def __init__(self, server: StandIn, user_agent: str) -> None:
        self._server = server
        self._agent = user_agent

    def OpenSession(self, req: Any) -> Any:  # noqa: N802
        if self._server.refuse_sessions:
            refused = {"sqlState": self._server.refuse_sessions, "errorMessage": "no such session here"}
            return ttypes.TOpenSessionResp(
                status=ttypes.TStatus(ttypes.TStatusCode.ERROR_STATUS, **refused), serverProtocolVersion=0
            )
        guid = uuid.uuid4().bytes
        self._server.sessions[guid] = Session(self._agent, dict(req.configuration or {}))
        return ttypes.TOpenSessionResp(
            status=OK,
            serverProtocolVersion=ttypes.TProtocolVersion.SPARK_CLI_SERVICE_PROTOCOL_V8,
            sessionHandle=ttypes.TSessionHandle(ttypes.THandleIdentifier(guid, uuid.uuid4().bytes)),
            configuration={},
            canUseMultipleCatalogs=True,
        )

    def CloseSession(self, req: Any) -> Any:  # noqa: N802
        session = self._server.sessions[req.sessionHandle.sessionId.guid]
        session.open = False
        return ttypes.TCloseSessionResp(status=OK)

    def ExecuteStatement(self, req: Any) -> Any:  # noqa: N802
        server, session = self._server, self._server.sessions[req.sessionHandle.sessionId.guid]
        server.statements.append(req.statement)
        server.before(req.statement)
        fault = server.fault(req.statement)
        if fault is not None and fault.expired:
            session.open = False
        if not session.open:
            status = ttypes.TStatus(ttypes.TStatusCode.INVALID_HANDLE_STATUS, errorMessage="Invalid SessionHandle: expired")
            return ttypes.TExecuteStatementResp(status=status)
        operation = ttypes.TOperationHandle(
            ttypes.THandleIdentifier(uuid.uuid4().bytes, uuid.uuid4().bytes),
            ttypes.TOperationType.EXECUTE_STATEMENT,
            hasResultSet=True,
        )
        if fault is not None and fault.refused:
            return ttypes.TExecuteStatementResp(status=ttypes.TStatus(ttypes.TStatusCode.ERROR_STATUS, errorMessage=fault.error))
        if fault is not None and (fault.slow or fault.polled or fault.ends):
            results = self._without_result(req.statement, fault, operation)
        else:
            results = self._with_result(req.statement, fault)
        return ttypes.TExecuteStatementResp(status=OK, operationHandle=operation, directResults=results)

    def _without_result(self, statement: str, fault: Fault, operation: Any) -> Any:
        server = self._server
        server.running[operation.operationId.guid] = self._begun(statement, fault)
        if server.forgets:
            server.running.clear()
            server.script.append(HttpAnswer(500))
        first = "RUNNING_STATE" if fault.slow or fault.polled else fault.ends
        results = _results(pa.table({}), moves_file=False) if fault.result == "direct" else ttypes.TSparkDirectResults()
        state = ttypes.TOperationState._NAMES_TO_VALUES[first]
        results.operationStatus = ttypes.TGetOperationStatusResp(status=OK, operationState=state)
        return results

    def _with_result(self, statement: str, fault: Fault | None) -> Any:
        try:
            try:
                if fault is None or fault.runs:
                    table, moves = self._server.carry_out(statement)
            finally:  # the answer can be lost even if it is a refusal
                if fault is not None and fault.cut:
                    raise _Cut
            if fault is not None:
                raise Refusal(fault.error, (re.findall(r"SQLSTATE: (\w{5})", fault.error) or [None])[-1])
        except Refusal as exc:
            failed = ttypes.TGetOperationStatusResp(
                status=OK,
                operationState=ttypes.TOperationState.ERROR_STATE,
                sqlState=exc.state,
                errorMessage=exc.text,
                displayMessage=exc.text,
            )
            return ttypes.TSparkDirectResults(operationStatus=failed)
        results = _results(table, moves)
        results.operationStatus.numModifiedRows = self._server.rows_changed
        return results

    def _begun(self, statement: str, fault: Fault) -> Running:
        if fault.slow:
            return Running(statement)
        ends = ttypes.TOperationState._NAMES_TO_VALUES[fault.ends or "FINISHED_STATE"]
        table = pa.table({}) if fault.ends else self._server.carry_out(statement)[0]
        return Running(statement, ends, table, fault.result)

    def GetOperationStatus(self, req: Any) -> Any:  # noqa: N802
        running = self._server.running.get(req.operationHandle.operationId.guid)
        if running is None:
            status = ttypes.TStatus(ttypes.TStatusCode.INVALID_HANDLE_STATUS, errorMessage="Invalid OperationHandle: closed")
            return ttypes.TGetOperationStatusResp(status=status)
        running.polled.set()
        if running.ends is not None:
            return ttypes.TGetOperationStatusResp(status=OK, operationState=running.ends)
        cancelled = running.cancelled.wait(POLL_SECONDS)
        state = ttypes.TOperationState.CANCELED_STATE if cancelled else ttypes.TOperationState.RUNNING_STATE
        return ttypes.TGetOperationStatusResp(status=OK, operationState=state)

    def CancelOperation(self, req: Any) -> Any:  # noqa: N802
        if running := self._server.running.get(req.operationHandle.operationId.guid):  # otherwise it has ended
            self._server.cancelled.append(running.statement)
            running.cancelled.set()
        return ttypes.TCancelOperationResp(status=OK)

    # A cancelled statement has no error, and its result is empty.

    def GetResultSetMetadata(self, req: Any) -> Any:  # noqa: N802
        running = self._server.running[req.operationHandle.operationId.guid]
        if running.result == "none":
            return ttypes.TGetResultSetMetadataResp(status=OK)
        if running.result == "error":
            status = ttypes.TStatus(ttypes.TStatusCode.ERROR_STATUS, errorMessage="There is no result set")
            return ttypes.TGetResultSetMetadataResp(status=status)
        return _results(running.table, moves_file=False).resultSetMetadata

    def FetchResults(self, req: Any) -> Any:  # noqa: N802
        results = _results(self._server.running[req.operationHandle.operationId.guid].table, moves_file=False)
        results.resultSet.resultSetMetadata = results.resultSetMetadata
        return results.resultSet

    def CloseOperation(self, req: Any) -> Any:  # noqa: N802
        return ttypes.TCloseOperationResp(status=OK)


def _results(table: pa.Table, moves_file: bool) -> Any:
    batches = [
        ttypes.TSparkArrowBatch(batch=batch.serialize().to_pybytes(), rowCount=batch.num_rows)
        for batch in table.combine_chunks().to_batches()
    ]
    columns = [
        ttypes.TColumnDesc(f.name, ttypes.TTypeDesc([ttypes.TTypeEntry(primitiveEntry=_thrift_type(f.type))]), position)
        for position, f in enumerate(table.schema, 1)
    ]
    return ttypes.TSparkDirectResults(
        operationStatus=ttypes.TGetOperationStatusResp(status=OK, operationState=ttypes.TOperationState.FINISHED_STATE),
        resultSetMetadata=ttypes.TGetResultSetMetadataResp(
            status=OK,
            schema=ttypes.TTableSchema(columns),
            resultFormat=ttypes.TSparkRowSetType.ARROW_BASED_SET,
            lz4Compressed=False,
            arrowSchema=table.schema.serialize().to_pybytes(),
            isStagingOperation=moves_file,
        ),
        resultSet=ttypes.TFetchResultsResp(
            status=OK,
            hasMoreRows=False,
            results=ttypes.TRowSet(startRowOffset=0, rows=[], arrowBatches=batches),
        ),
        closeOperation=ttypes.TCloseOperationResp(status=OK),
    )


def _thrift_type(kind: pa.DataType) -> Any:
    if pa.types.is_decimal(kind):
        qualifiers = {
            "precision": ttypes.TTypeQualifierValue(i32Value=kind.precision),
            "scale": ttypes.TTypeQualifierValue(i32Value=kind.scale),
        }
        return ttypes.TPrimitiveTypeEntry(ttypes.TTypeId.DECIMAL_TYPE, ttypes.TTypeQualifiers(qualifiers))
    for matches, name in (
        (pa.types.is_boolean, "BOOLEAN"),
        (pa.types.is_int32, "INT"),
        (pa.types.is_int64, "BIGINT"),
        (pa.types.is_floating, "DOUBLE"),
        (pa.types.is_date, "DATE"),
        (pa.types.is_timestamp, "TIMESTAMP"),
        (pa.types.is_list, "ARRAY"),
        (pa.types.is_map, "MAP"),
        (pa.types.is_null, "NULL"),
    ):
        if matches(kind):
            return ttypes.TPrimitiveTypeEntry(getattr(ttypes.TTypeId, f"{name}_TYPE"))
    return ttypes.TPrimitiveTypeEntry(ttypes.TTypeId.STRING_TYPE)


def _handler(server: StandIn) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - a class whose methods know the server
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self._body()
            server.paths.append(self.path)
            if self.path.startswith("/oidc/"):
                self._grant(body)
                return
            server.bytes_received += len(body)
            if server.script:
                answer = server.script.popleft()
                self._send(answer.status, answer.body, answer.headers)
            elif self.headers.get("Authorization", "").removeprefix("Bearer ") not in server.tokens:
                self._send(403, b"<html>denied</html>", {"x-databricks-reason-phrase": "Invalid access token."})
            elif self.path != HTTP_PATH:
                self._send(404, b"<html>not found</html>")
            else:
                self._thrift(body)

        def _thrift(self, body: bytes) -> None:
            out = TMemoryBuffer()
            service = _Service(server, self.headers.get("User-Agent", ""))
            try:
                TCLIService.Processor(service).process(TBinaryProtocol(TMemoryBuffer(body)), TBinaryProtocol(out))
            except _Cut:
                self.close_connection = True
                return
            self._send(200, out.getvalue(), {"Content-Type": "application/x-thrift"})

        def _grant(self, body: bytes) -> None:
            """OAuth for machines: give a token for the client's id and secret (HTTP Basic), or for another issuer's token."""
            basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
            form = parse_qs(body.decode())
            secret = form.get("grant_type") == ["client_credentials"] and self.headers.get("Authorization") == f"Basic {basic}"
            if server.revoked or not (secret or form.get("subject_token") == [OIDC_TOKEN]):
                self._send(401, b'{"error":"invalid_client","error_description":"Client authentication failed"}')
                return
            token = {"token_type": "Bearer"} | server.grants()
            self._send(200, json.dumps(token).encode(), {"Content-Type": "application/json"})

        def do_GET(self) -> None:
            """What Databricks' SDK asks before it logs in."""
            if self.path == "/.well-known/databricks-config":
                found = {"oidc_endpoint": f"{server.url}/oidc", "workspace_id": "1"}
            elif self.path == "/oidc/.well-known/oauth-authorization-server":
                found = {
                    "authorization_endpoint": f"{server.url}/oidc/v1/authorize",
                    "token_endpoint": f"{server.url}/oidc/v1/token",
                }
            else:
                self._send(404)
                return
            self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

        def do_PUT(self) -> None:
            body = self._body()
            status = server.volume_status("PUT", self.path)
            if status == 200:
                target = server.folder / urlsplit(self.path).path.lstrip("/")
                if not target.parent.is_dir():
                    status = 404
                else:
                    target.write_bytes(body)
                    server.uploads.append(body)
            self._send(status)

        def do_DELETE(self) -> None:
            status = server.volume_status("DELETE", self.path)
            if status == 200:
                (server.folder / urlsplit(self.path).path.lstrip("/")).unlink(missing_ok=True)
            self._send(status)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    return Handler


def wait_until(is_done: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until another thread or process has done something."""
    end = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)
