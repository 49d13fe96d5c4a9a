"""From a parameter file to tracked results: configuration, content keys, store, stages, tracking."""
