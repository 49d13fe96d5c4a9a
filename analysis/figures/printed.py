"""Numbers that the paper prints in its text about its figures, and where it sees something begin.

Liu et al. 2024 (arXiv:2402.04325), sections 4.3 and 4.5. Fractions; its networks are ResNet-18.
"""

# Gain in accuracy under PGD over overfitting adversarial training: (data set, ratio, radius in 1/255).
FIGURE3_GAINS = {
    ("CIFAR-10", 0.90, 12): 0.2377,
    ("CIFAR-10", 0.90, 16): 0.2860,
    ("CIFAR-10", 0.99, 12): 0.3709,
    ("CIFAR-10", 0.99, 16): 0.4792,
    ("CIFAR-100", 0.90, 12): 0.1792,
    ("CIFAR-100", 0.90, 16): 0.1917,
    ("CIFAR-100", 0.99, 12): 0.2698,
    ("CIFAR-100", 0.99, 16): 0.3161,
}
# Figure 4: the ratio from which on ...
CLEAN_FALLS_AT = 0.9
ROBUST_RISES_AT = 0.6
ESSENTIAL_FALLS_AT = 0.2
_DATA_SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def paper_data_set(name: str | None) -> str | None:
    """The paper's name of one of our data sets; None for one that it has not."""
    return _DATA_SETS.get(name or "")
