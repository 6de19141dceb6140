"""Rows and the headline table as CSV that no spreadsheet takes for a formula."""

from __future__ import annotations

import csv
import io
from typing import Any

import pandas as pd

from reports import words


def as_csv(frame: pd.DataFrame) -> str:
    """Numbers as they are; text that no spreadsheet takes for a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([words.csv_text(c) for c in frame.columns])
    for row in frame.itertuples(index=False):
        writer.writerow([_csv_value(value) for value in row])
    return out.getvalue()


def _csv_value(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    return words.csv_text(value) if isinstance(value, str) else value
