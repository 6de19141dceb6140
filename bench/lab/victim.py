"""`bench` in a real process, with workers, that stops itself or others at a call: how a campaign kills what is no fork.

BENCH_LAB holds what is to happen, as JSON: role ("parent" or "worker"), at (the number of the call), signals, whom ("self",
"parent" or "group"), seed (of where a half-written file is cut) and once (a file that is made when it has happened).
"""

from __future__ import annotations

import json
import os
import random
import signal

import bench.loop
from bench.cli import app
from bench.lab.attack import Call, arm, cut


def _attack(role: str, at: int, signals: list[int], whom: str, seed: int, once: str) -> None:
    if (role == "worker") != (__name__ == "__mp_main__"):
        return

    def attack(index: int, call: Call, file: int | None) -> None:
        if index < at or os.path.exists(once):
            return
        os.close(os.open(once, os.O_CREAT))
        if signal.SIGKILL in signals:
            cut(file, random.Random(seed))
        for number in signals:
            if whom == "group":
                os.killpg(0, number)
            else:
                os.kill(os.getppid() if whom == "parent" else os.getpid(), number)

    arm(attack)


bench.loop.CHECKPOINT_SECONDS = 0.0
if "BENCH_LAB" in os.environ:
    _attack(**json.loads(os.environ["BENCH_LAB"]))

if __name__ == "__main__":
    app()
