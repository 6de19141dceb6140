"""What a run.json says, read tolerantly: texts, numbers, the tier, the id and the protocol of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def text_of(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return "" if value is None or isinstance(value, (Mapping, list, tuple)) else str(value)


def number_of(record: Mapping[str, Any], key: str) -> float:
    value = record.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else -1.0


def tier_of(record: Mapping[str, Any]) -> str:
    """A record's tier is its name, or a table that holds it."""
    tier = record.get("tier")
    return text_of(tier, "name") if isinstance(tier, Mapping) else text_of(record, "tier")


def run_id(record: Mapping[str, Any]) -> str:
    """The run that a record describes, as rows name it: its folder's name."""
    folder = record.get("folder")
    return Path(folder).name if folder else text_of(record, "id")


def protocol_of(record: Mapping[str, Any]) -> str:
    """What a run was matched by, allowed and shown."""
    return json.dumps([record.get("match"), record.get("budget"), record.get("checksum")], sort_keys=True, default=str)
