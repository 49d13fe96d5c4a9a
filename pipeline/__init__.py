"""From a parameter file to tracked results: configuration, content keys, store, stages, tracking."""

import os

# Threads that wait for each other sleep instead of spinning. Where something else uses the processor too,
# spinning threads keep each other from running: a training step was then measured ten times slower. The
# OpenMP runtime reads this once, when torch is first imported, which is why it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
