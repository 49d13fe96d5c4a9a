"""From a parameter file to tracked results: configuration, content keys, store, stages, tracking."""

import os

# Threads that wait for each other spin for some microseconds only, then sleep. Where something else uses the
# processor too, threads that spin as long as GNU OpenMP's default keep each other from running: a training
# step was measured ten times slower. Sleeping at once costs a factor of two on small images. The runtime
# reads this when torch is first imported, which is why it stands here.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# How Ray is used here. It reads these when it is imported, and the processes that it starts read them again:
# set later, only those would ask for a token.
for _name, _value in {
    "RAY_AUTH_MODE": "token",  # its ports answer this user only
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # nor installed on the way
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # work stays in the working directory
    "RAY_AIR_NEW_OUTPUT": "0",  # what is shown and kept is ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "8",  # trials are asked for several at a time
}.items():
    os.environ.setdefault(_name, _value)
