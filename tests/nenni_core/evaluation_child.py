"""An evaluation that kills itself once an attack is under way: `evaluation_child.py DIRECTORY ATTACK`."""

import os
import signal
import sys
from pathlib import Path

import torch
from evaluation_problem import judge


def main() -> None:
    """Evaluate into DIRECTORY; SIGKILL after the first batch of ATTACK."""
    directory, victim = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)

    def kill(description: str, completed: int, total: int) -> None:
        if description == victim:
            os.kill(os.getpid(), signal.SIGKILL)

    judge(resume_dir=directory, on_progress=kill)


if __name__ == "__main__":
    main()
