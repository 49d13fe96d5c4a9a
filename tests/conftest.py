"""For the whole suite: one thread, which is faster for small tensors and does not suffer from neighbours."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import torch

torch.set_num_threads(1)
