"""A suite: the grid of runs of one `bench all`, from its plan to its report.

    plan the runs -> train (parents first) and evaluate in workers -> time alone on the machine -> report

Files are the interface: each stage finds on disk what the one before wrote, so nothing that is finished is done again and
an interrupted suite goes on where it stopped.

    stages.everything     the whole course, stage by stage
    grid                  `Grid`: the runs, what they stand on, what is finished and what is damaged
    jobs                  the grid's unfinished work as jobs for the workers, and a row for each job that failed
    checked               `Checked`: which folders of runs and rows can be shown, and why others are left out
    reporting             the report of checked folders, written only when something that it depends on has changed
    result                `Result`: what a suite did, and where its report is
"""

from bench.suite.checked import check, damaged, frame, records
from bench.suite.grid import plan_runs
from bench.suite.reporting import report
from bench.suite.result import Result
from bench.suite.stages import everything

__all__ = [
    "Result",
    "check",
    "damaged",
    "everything",
    "frame",
    "plan_runs",
    "records",
    "report",
]
