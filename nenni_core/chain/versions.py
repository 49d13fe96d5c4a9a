"""Which version each stage of the chain has."""

VERSIONS = {"prepare": 2, "pretrain": 3, "distill": 4, "finetune": 4, "attack": 5}
"""Raised by hand when a change of the code changes a stage's output, or what its entry records."""
