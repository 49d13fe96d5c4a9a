"""The random projection has the law that the paper states, and keeps inner products as theory says."""

import numpy as np
import pytest
import torch
from scipy import stats

from nenni_core.projection import draw_signs, projection_matrix, projection_rank
from nenni_core.randomness import make_generator

SIGNIFICANCE = 1e-3


def counts_of(signs: torch.Tensor) -> np.ndarray:
    return np.array([(signs == value).sum().item() for value in (-1, 0, 1)])


def test_entries_follow_the_one_sixth_two_thirds_law() -> None:
    counts = counts_of(draw_signs(200, 300, make_generator(0, "law")))
    assert stats.chisquare(counts, counts.sum() * np.array([1, 4, 1]) / 6).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("law", [(1, 2, 1), (1, 3, 1), (1, 5, 1), (2, 8, 1)])
def test_the_same_test_rejects_other_laws(law: tuple[int, int, int]) -> None:
    counts = counts_of(draw_signs(200, 300, make_generator(0, "law")))
    assert stats.chisquare(counts, counts.sum() * np.array(law) / sum(law)).pvalue < SIGNIFICANCE


def test_entries_are_independent_between_rows_and_columns() -> None:
    signs = draw_signs(400, 400, make_generator(1, "independent")).numpy()
    for a, b in ((signs[:-1], signs[1:]), (signs[:, :-1], signs[:, 1:])):
        table = stats.contingency.crosstab(a.ravel(), b.ravel()).count
        assert stats.chi2_contingency(table).pvalue > SIGNIFICANCE


def test_expected_gram_matrix_is_the_identity() -> None:
    dimension, rank, draws = 24, 6, 4000
    total = torch.zeros(dimension, dimension, dtype=torch.float64)
    generator = make_generator(2, "gram")
    for _ in range(draws):
        P = projection_matrix(draw_signs(rank, dimension, generator)).double()
        total += P.T @ P
    # one entry off the diagonal has variance 1/rank, one on it (3-1)/rank: 5 standard errors of the mean
    bound = 5 * np.sqrt(2 / rank / draws)
    assert (total / draws - torch.eye(dimension)).abs().max() < bound


def test_inner_product_error_falls_as_one_over_the_rank() -> None:
    """Theorem 1; with s = 3 entries have a Gaussian's fourth moment: Var = (|x|^2 |w|^2 + <x, w>^2) / k."""
    generator = torch.Generator().manual_seed(3)
    dimension = 64
    x, w = torch.randn(2, dimension, generator=generator, dtype=torch.float64)
    exact = x @ w
    predicted = x.square().sum() * w.square().sum() + exact**2
    variances = []
    for rank in (4, 16, 64):
        errors = []
        for draw in range(1500):
            P = projection_matrix(draw_signs(rank, dimension, make_generator(draw, "jl", str(rank)))).double()
            errors.append(((P @ x) @ (P @ w) - exact).item())
        variance = float(np.var(errors))
        variances.append(variance)
        assert abs(np.mean(errors)) < 5 * np.sqrt(variance / len(errors))  # unbiased
        assert variance * rank == pytest.approx(predicted.item(), rel=0.2)
    assert variances[0] > 3 * variances[1] > 9 * variances[2]


def test_equal_seeds_give_equal_projections_and_other_names_others() -> None:
    first = draw_signs(8, 50, make_generator(0, "projection", "conv1"))
    assert torch.equal(first, draw_signs(8, 50, make_generator(0, "projection", "conv1")))
    assert not torch.equal(first, draw_signs(8, 50, make_generator(0, "projection", "conv2")))
    assert not torch.equal(first, draw_signs(8, 50, make_generator(1, "projection", "conv1")))


@pytest.mark.parametrize(
    ("dimension", "share", "rank"), [(27, 0.25, 7), (576, 0.25, 144), (3, 0.01, 1), (9, 1.0, 9)]
)
def test_rank_is_rounded_up(dimension: int, share: float, rank: int) -> None:
    assert projection_rank(dimension, share) == rank
