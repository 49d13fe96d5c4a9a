"""From a parameter file to tracked results: configuration, content keys, store, stages, tracking."""

import os

# Threads that wait for each other spin for some microseconds only, then sleep. Where something else uses the
# processor too, threads that spin as long as GNU OpenMP's default keep each other from running: a training
# step was measured ten times slower. Sleeping at once costs a factor of two on small images. The runtime
# reads this when torch is first imported, which is why it stands here.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
