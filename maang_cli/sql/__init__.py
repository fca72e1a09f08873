"""The transforms, one file each, in the SQL that DuckDB and Databricks share.

`{name}` in a text is a placeholder. Literals are filled in here. The warehouse that runs the text fills in its tables, and
`{tickers}`: the requested tickers, each with the dates from `first_date` to `last_date`; one with several spans has several rows.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from functools import cache
from importlib.resources import files


@cache
def _read(name: str) -> str:
    return files(__name__).joinpath(f"{name}.sql").read_text("utf-8")


def text(name: str, **literals: str) -> str:
    """The text of `sql/<name>.sql` with these literals filled in; the other placeholders stay."""
    return fill(_read(name), literals)


def fill(template: str, values: dict[str, str]) -> str:
    """`template` with each `{name}` replaced by its value. Braces inside values are left alone."""
    parts = template.split("{")
    filled = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition("}")
        filled.append(values[name] + rest if name in values else "{" + part)
    return "".join(filled)


def string(value: str) -> str:
    """A string literal.

    Raises:
        ValueError: `value` has a backslash, which the two engines read differently.
    """
    if "\\" in value:
        raise ValueError("a backslash in a SQL literal")
    return "'" + value.replace("'", "''") + "'"


def day(value: date) -> str:
    """A date literal."""
    return f"DATE '{value}'"


def relation(columns: Mapping[str, str], rows: Iterable[Iterable[str]]) -> str:
    """A SELECT of rows of literals, in these columns (name to type); it may have no rows."""
    values = ", ".join(f"({', '.join(row)})" for row in rows)
    cast = ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind in columns.items())
    if not values:
        return f"SELECT {', '.join(f'CAST(NULL AS {kind}) AS {name}' for name, kind in columns.items())} WHERE FALSE"
    return f"SELECT {cast} FROM (VALUES {values}) AS v({', '.join(columns)})"


def differs(left: str, right: str, columns: Iterable[str]) -> str:
    """A condition: the rows of two relations are distinct in one of these columns, of which there is at least one."""
    return " OR ".join(f"{left}.{column} IS DISTINCT FROM {right}.{column}" for column in columns)


def rows(values: Iterable[str]) -> str:
    """The body of a one-column VALUES."""
    return ", ".join(f"({value})" for value in values)
