"""A training process that kills itself: `restart_child.py DIRECTORY KIND MOMENT COUNT`.

MOMENT is what the SIGKILL follows: "batch" (the COUNT-th call of on_progress), "partial" (the COUNT-th
checkpoint is written but not renamed), "renamed" (it is renamed, the older one not yet removed).
"""

import os
import signal
import sys
from pathlib import Path

import torch
from training_problem import net_of_kind, problem, recipe

from nenni_core.training import train


def main() -> None:
    directory, kind, moment, count = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(1)
    seen = {"batch": 0, "partial": 0, "renamed": 0}

    def reach(name: str) -> None:
        seen[name] += 1
        if name == moment and seen[name] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    replace = os.replace

    def rename(source: Path, target: Path) -> None:
        reach("partial")
        replace(source, target)
        reach("renamed")

    os.replace = rename
    train(
        net_of_kind(kind),
        *problem(),
        recipe(epochs=4, flip=True),
        seed=5,
        checkpoint_dir=directory,
        on_progress=lambda *call: reach("batch"),
    )


if __name__ == "__main__":
    main()
