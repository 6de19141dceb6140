"""What a suite did, and where its report is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import store
from bench.suite.checked import frame, records
from bench.suite.reporting import families

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """What a suite did.

    folders:  of the rows of the comparison, its timings and baselines. run_folders: of its runs.
    report:   the files of the report, the page first.
    failures: (job, reason).
    symptoms: (job, folder, what its log says is wrong) of runs that finished or diverged.
    lost:     the rows that stand for folders that can not be used.
    trained, evaluated: how many jobs were done now; the others were found finished.
    """

    folders: tuple[Path, ...]
    run_folders: tuple[Path, ...]
    report: tuple[Path, ...]
    failures: tuple[tuple[str, str], ...]
    trained: int
    evaluated: int
    seconds: float
    skipped: Mapping[str, str] = field(default_factory=dict)
    tier: str = ""
    symptoms: tuple[tuple[str, str, str], ...] = ()
    lost: Mapping[Path, list[store.Row]] = field(default_factory=dict)

    def frame(self) -> DataFrame:
        return frame(self.folders, self.lost)

    def comparison(self) -> DataFrame:
        """The headline table of the report."""
        import reports

        return reports.comparison(self.frame(), records(self.run_folders, self.tier, equal=True), families())

    def as_json(self) -> dict[str, Any]:
        table = self.comparison()
        return {
            "table": [
                {k: v for k, v in row.items() if not (isinstance(v, float) and math.isnan(v))}
                for row in table.to_dict("records")
            ],
            "runs": [str(folder) for folder in self.run_folders],
            "report": [str(path) for path in self.report],
            "failures": [{"job": job, "reason": reason} for job, reason in self.failures],
            "symptoms": [{"job": job, "run": run, "symptom": text} for job, run, text in self.symptoms],
            "skipped": dict(self.skipped),
            "trained": self.trained,
            "evaluated": self.evaluated,
            "seconds": round(self.seconds, 2),
        }
