"""Golden files: what a person reads, as it was approved. With UPDATE_GOLDEN=1 in the environment the tests write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"

_MASKS = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", "YYYY-MM-DD hh:mm:ssZ"),  # as wide as what it replaces, because it stands in tables
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "YYYY-MM-DDThh:mm:ssZ"),
    (r'("(?:last_final|next_due)": )"\d{4}-\d\d-\d\d"', r'\1"YYYY-MM-DD"'),
    (r'("next_due_at": )"\d{4}-\d\d-\d\d 06:00 New York"', r'\1"YYYY-MM-DD 06:00 New York"'),
    (r'("bytes": )\d+', r"\1BYTES"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"maang_doctor_[0-9]+_[0-9a-f]{8}", "maang_doctor_MARK"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
)


def freshness(text: str) -> str:
    """`text` as if it was printed on the morning of 2025-10-15: the last final session depends on the day."""
    final = "last final session 2025-10-14, next due 2025-10-15: 2025-10-16 06:00 New York"
    return re.sub(r"last final session \S+, next due \S+: \S+ 06:00 New York", final, text)


def without_sizes(text: str) -> str:
    """`text` without the sizes of files, which differ by a few bytes from run to run, and without the width of their column."""
    return re.sub(r" {2,}size", "  size", re.sub(r" +\d+\.\d [KM]B", "  SIZE", text))


def masked(text: str, folder: Path) -> str:
    """`text` without what differs between two runs: times, ports, sizes, the path of `folder`. No line ends with a space."""
    text = without_sizes(freshness(text.replace(str(folder), "/FOLDER")))
    for pattern, mask in _MASKS:
        text = re.sub(pattern, mask, text)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def assert_golden(name: str, text: str) -> None:
    """`text` is what the file holds."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    assert path.is_file(), f"{path.name} is missing; UPDATE_GOLDEN=1 writes it"
    assert text == path.read_text("utf-8")
