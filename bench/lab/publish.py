"""Keeps a suite's report in the repository: `python -m bench.lab.publish RUNS/report/SUITE [NAME]`.

reports/results/NAME/report.md      the tables and the figures, without the curves of single trainings
                     figures/*.svg  those that it shows
                     rows.csv.gz    every number behind it, with its provenance; `pandas.read_csv` reads it
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

from bench.store import write_atomic

RESULTS = Path(__file__).parents[2] / "reports" / "results"
FIGURE = re.compile(r"^!\[.*\]\((figures/[^)]+)\)\n\n?", re.MULTILINE)


def publish(report: Path, to: Path) -> list[Path]:
    """Copies what is worth keeping of the folder of a report; returns what it wrote."""
    text = (report / "report.md").read_text()
    shown = [name for name in FIGURE.findall(text) if "-training-" not in name]
    text = FIGURE.sub(lambda m: m[0] if m[1] in shown else "", text)
    parts = {name: (report / name).read_bytes() for name in shown}
    # No time in the archive: the same rows are the same bytes.
    parts["rows.csv.gz"] = gzip.compress((report / "report.csv").read_bytes(), mtime=0)
    parts["report.md"] = text.encode()
    for name, data in parts.items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(to / name, data)
    return [to / name for name in parts]


if __name__ == "__main__":
    source = Path(sys.argv[1])
    for path in publish(source, RESULTS / (sys.argv[2] if len(sys.argv) > 2 else source.name)):
        print(path)
