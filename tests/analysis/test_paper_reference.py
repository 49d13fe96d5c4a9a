"""The printed values beside ours."""

import pytest

from analysis.paper import printed_reduction


@pytest.mark.parametrize(
    ("model", "ratio", "pattern", "percent", "network", "table"),
    [
        # what the paper writes out in its tables 1 and 2 and in section 5
        ("resnet18", 0.9, None, 82.6, "ResNet-18", 1),
        ("resnet18", 0.99, None, 91.6, "ResNet-18", 1),
        ("wrn34_10", 0.9, None, 82.6, "WideResNet-34-10", 2),
        ("wrn34_10", 0.99, None, 91.6, "WideResNet-34-10", 2),
        # 1 - 1.49 / 2.60 and 1 - 2.53 / 2.60 of table 4
        ("resnet18", None, "4:8", 42.7, "ResNet-18", 4),
        ("resnet18", 0.1, None, 2.7, "ResNet-18", 4),
        # a network that the paper does not have
        ("small_resnet", 0.5, None, 42.7, "ResNet-18", 4),
    ],
)
def test_reductions_are_the_papers(model, ratio, pattern, percent, network, table) -> None:
    printed = printed_reduction(model, ratio, pattern)
    assert printed is not None
    assert round(100 * printed.reduction, 1) == percent
    assert (printed.network, printed.table) == (network, table)


@pytest.mark.parametrize(
    ("model", "ratio", "pattern"),
    [
        ("resnet18", 0.95, None),
        ("resnet18", None, "3:8"),
        ("wrn34_10", None, "4:8"),
        ("resnet18", None, None),
    ],
)
def test_nothing_is_made_up_where_the_paper_prints_nothing(model, ratio, pattern) -> None:
    assert printed_reduction(model, ratio, pattern) is None
