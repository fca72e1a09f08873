"""The engine behind the stand-in: Spark 4 with Iceberg. All tests share one process; each has its own catalog."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

ICEBERG = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0"
INSTALL_JAVA = "needs Java 17 for Spark: apt-get install openjdk-17-jre-headless"
EXTENSIONS = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"

# Some of Spark's errors are Java exceptions without a SQLSTATE. By their text: what the warehouse reports instead.
_TEXTS = (
    ("NoSuchNamespaceException", "[SCHEMA_NOT_FOUND] The schema cannot be found. SQLSTATE: 42704"),
    ("NoSuchTableException", "[TABLE_OR_VIEW_NOT_FOUND] The table or view `{table}` cannot be found. SQLSTATE: 42P01"),
    ("Cannot find a snapshot older than", "[DELTA_TIMESTAMP_EARLIER_THAN_COMMIT_RETENTION] {line}. SQLSTATE: 42816"),
    ("CommitFailedException", "[DELTA_CONCURRENT_WRITE] A concurrent transaction has written new data. SQLSTATE: 2D521"),
    ("ValidationException", "[DELTA_CONCURRENT_APPEND] Files were added by a concurrent update. SQLSTATE: 2D521"),
)


@dataclass
class Refusal(Exception):
    """A statement that Spark refused, with the warehouse's error text."""

    text: str
    state: str | None


class Spark:
    """One local Spark; `catalog()` gives a session on a new, empty Iceberg catalog."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("java") is None:
            pytest.skip(INSTALL_JAVA)
        from pyspark.sql import SparkSession

        options = {
            "spark.jars.packages": ICEBERG,
            "spark.sql.extensions": EXTENSIONS,
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.shuffle.partitions": "1",
            "spark.sql.warehouse.dir": str(folder / "spark"),
            "spark.default.parallelism": "1",
            "spark.driver.memory": "2g",
            # The tables are small, so a better compiler takes longer than it saves. The cache for its code is 48 MB by default,
            # which fills up; then the compiler stops. The more room for new objects, the fewer collections.
            "spark.driver.extraJavaOptions": (
                "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC -Xmn700m -XX:MetaspaceSize=256m"
            ),
            "spark.sql.codegen.wholeStage": "false",
            "spark.sql.codegen.factoryMode": "NO_CODEGEN",
            # Each of these makes more jobs out of one statement, so that large tables are read or written faster.
            "spark.sql.adaptive.enabled": "false",
            "spark.sql.optimizer.dynamicPartitionPruning.enabled": "false",
            "spark.sql.optimizer.runtime.rowLevelOperationGroupFilter.enabled": "false",
            "spark.sql.iceberg.distribution-mode": "none",
        }
        builder: Any = SparkSession.builder.master("local[2]").appName("stand-in")
        for name, value in options.items():
            builder = builder.config(name, value)
        self._root = builder.getOrCreate()
        self._root.sparkContext.setLogLevel("OFF")
        logging.getLogger("SQLQueryContextLogger").disabled = True  # otherwise pyspark prints each refusal on stderr
        self._folder = folder
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def catalog(self) -> Catalog:
        with self._lock:
            name = f"c{next(self._numbers)}"
            session = self._root.newSession()
        prefix = f"spark.sql.catalog.{name}"
        for key, value in {
            prefix: "org.apache.iceberg.spark.SparkCatalog",
            f"{prefix}.catalog-impl": "org.apache.iceberg.inmemory.InMemoryCatalog",
            f"{prefix}.io-impl": "org.apache.iceberg.hadoop.HadoopFileIO",
            f"{prefix}.warehouse": str(self._folder / name),
            f"{prefix}.cache-enabled": "false",
        }.items():
            session.conf.set(key, value)
        session.sql(f"USE {name}")
        return Catalog(name, session)

    def read(self, metadata: str) -> pa.Table:
        """All rows of a table that is in none of these catalogs; `metadata` is the path of its metadata file."""
        return _arrow(self._root.read.format("iceberg").load(metadata))

    def stop(self) -> None:
        self._root.stop()


@dataclass(frozen=True)
class Catalog:
    """An Iceberg catalog, and the Spark session that sees it."""

    name: str
    session: Any

    def run(self, statement: str) -> pa.Table:
        """The statement's rows.

        Raises:
            Refusal: Spark refused it.
        """
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import PySparkException

        try:
            return _arrow(self.session.sql(statement))
        except PySparkException as exc:
            raise _refusal(str(exc), exc.getSqlState()) from exc
        except Py4JJavaError as exc:
            raise _refusal(*_cause(exc.java_exception)) from exc


def _arrow(frame: Any) -> pa.Table:
    """The same as `toArrow`, but this closes the socket. `toArrow` leaves it to the garbage collector, and Python warns."""
    from pyspark.sql.pandas.serializers import ArrowCollectSerializer
    from pyspark.sql.pandas.types import to_arrow_schema
    from pyspark.util import local_connect_and_auth

    port, secret, served = frame._jdf.collectAsArrowToPython()
    file, socket = local_connect_and_auth(port, secret)
    socket.settimeout(None)  # the 15 s are for connecting; an answer may take longer
    with contextlib.closing(socket), contextlib.closing(file):
        *batches, order = ArrowCollectSerializer().load_stream(file)
    served.getResult()
    schema = to_arrow_schema(frame.schema)
    return pa.Table.from_batches([batches[i] for i in order]).cast(schema) if order else schema.empty_table()


def _cause(java: Any) -> tuple[str, str | None]:
    """Spark's message and SQLSTATE for a failure on another of its threads; without one, Java's message and None."""
    message = java.toString()
    while java is not None:
        if found := re.search(r"SQLSTATE: (\w{5})", java.getMessage() or ""):
            return java.getMessage(), found.group(1)
        java = java.getCause()
    return message, None


def _refusal(message: str, state: str | None) -> Refusal:
    if state:  # Spark adds the plan after a semicolon and a line break
        return Refusal(message.partition("; line ")[0].partition("\n\n== SQL")[0], state)
    for mark, template in _TEXTS:
        if mark in message:
            table = re.search(r"\b[a-z0-9_]+\.([a-z0-9_]+)$", message, re.MULTILINE)
            text = template.format(line=message.splitlines()[0], table=table.group(1) if table else "?")
            return Refusal(text, text[-5:])
    return Refusal(f"[INTERNAL_ERROR] {message} SQLSTATE: XX000", "XX000")
