"""Fixed-point rounding against its definition."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays

from nenni_core.quantize import best_exponent, fixed_point, integer_range

VALUES = arrays("float32", (3, 7), elements=st.floats(-100, 100, width=32)).map(torch.from_numpy)


@pytest.mark.parametrize(("bits", "bounds"), [(4, (-8, 7)), (2, (-2, 1)), (8, (-128, 127))])
def test_integer_range(bits: int, bounds: tuple[int, int]) -> None:
    assert integer_range(bits) == bounds


@given(values=VALUES, exponent=st.integers(-6, 6), bits=st.integers(2, 8))
def test_rounds_to_the_nearest_representable_number(values: torch.Tensor, exponent: int, bits: int) -> None:
    low, high = integer_range(bits)
    grid = torch.arange(low, high + 1) * 2.0**exponent
    rounded = fixed_point(values, torch.tensor(float(exponent)), bits)
    nearest = (values.unsqueeze(-1) - grid).abs().min(dim=-1).values
    assert torch.isin(rounded, grid).all()
    assert torch.allclose((rounded - values).abs(), nearest, rtol=0, atol=1e-6 * 2.0**exponent)


@given(values=VALUES, exponent=st.integers(-6, 6))
def test_rounding_twice_changes_nothing(values: torch.Tensor, exponent: int) -> None:
    once = fixed_point(values, torch.tensor(float(exponent)), 4)
    assert torch.equal(fixed_point(once, torch.tensor(float(exponent)), 4), once)


@given(values=VALUES)
def test_chosen_exponent_is_the_best_of_all_powers_of_two(values: torch.Tensor) -> None:
    def error(exponent: torch.Tensor) -> torch.Tensor:
        return (fixed_point(values, exponent, 4).double() - values.double()).square().sum()

    chosen = error(best_exponent(values, 4, per_row=False))
    # 2**-160 underflows in float32; below 2**-40 the values of this test are all clipped or all zero
    others = torch.stack([error(torch.tensor(float(e))) for e in range(-40, 12)])
    assert chosen <= others.min() * (1 + 1e-5) + 1e-12


def test_a_row_of_its_own_scale_rounds_better() -> None:
    values = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [100.0]])
    shared = fixed_point(values, best_exponent(values, 4, per_row=False), 4)
    own = fixed_point(values, best_exponent(values, 4, per_row=True), 4)
    assert (own[0] - values[0]).square().sum() < (shared[0] - values[0]).square().sum()


def test_gradient_is_one_inside_the_range_and_zero_where_clipped() -> None:
    values = torch.tensor([-100.0, -8.0, -0.3, 0.0, 2.6, 7.4, 7.6, 50.0], requires_grad=True)
    fixed_point(values, torch.tensor(0.0), 4).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 1, 1, 0, 0]


def test_stochastic_rounding_is_unbiased_and_nearest_rounding_is_not() -> None:
    values = torch.full((40_000,), 2.3)
    dither = torch.rand(values.shape, generator=torch.Generator().manual_seed(1))
    random = fixed_point(values, torch.tensor(0.0), 4, dither)
    standard_error = (0.3 * 0.7 / len(values)) ** 0.5
    assert set(random.tolist()) == {2.0, 3.0}
    assert abs(random.mean().item() - 2.3) < 4 * standard_error
    assert abs(fixed_point(values, torch.tensor(0.0), 4).mean().item() - 2.3) > 100 * standard_error
