"""Intervals of a mean and of a standard deviation over a few runs, as if runs scattered normally.

With five runs nothing better can be had: a bootstrap of five values is far too narrow, and no test of theirs says
whether they are normal. Quantiles are found by bisection on the distribution functions. Not covered: tests (exact.py).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEVEL = 0.95
_STEPS = 200


@dataclass(frozen=True, slots=True)
class Spread:
    """Values of the runs of one arm. low, high: of the mean; sd_low, sd_high: of the standard deviation (n − 1)."""

    n: int
    mean: float | None
    low: float | None
    high: float | None
    sd: float | None
    sd_low: float | None
    sd_high: float | None


def spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation with their intervals; None where there are too few values."""
    n = len(values)
    if not n:
        return Spread(0, None, None, None, None, None, None)
    mean = math.fsum(values) / n
    if n < 2:
        return Spread(n, mean, None, None, None, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile((1 + LEVEL) / 2, n - 1) * sd / math.sqrt(n)
    ends = (chi_square_quantile(q, n - 1) for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    sd_low, sd_high = (sd * math.sqrt((n - 1) / end) for end in ends)
    return Spread(n, mean, mean - half, mean + half, sd, sd_low, sd_high)


def t_quantile(q: float, df: int) -> float:
    """Return the quantile q in (0, 1) of Student's t with df >= 1 degrees of freedom."""
    if q < 0.5:
        return -t_quantile(1 - q, df)
    return _bisect(lambda t: 1 - _beta_tail(df / (df + t * t), df / 2, 0.5) / 2, q)


def chi_square_quantile(q: float, df: int) -> float:
    """Return the quantile q in (0, 1) of chi-square with df >= 1 degrees of freedom."""
    return _bisect(lambda x: _lower_gamma(df / 2, x / 2), q)


def _bisect(cdf: Callable[[float], float], q: float) -> float:
    """Return where a distribution function on [0, ∞) reaches q."""
    low, high = 0.0, 1.0
    while cdf(high) < q:
        high *= 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cdf(middle) < q else (low, middle)
    return (low + high) / 2


def _lower_gamma(a: float, x: float) -> float:
    """Return the regularised lower incomplete gamma function by its series."""
    if x <= 0:
        return 0.0
    term = total = 1 / a
    n = a
    while term > total * 1e-16:
        n += 1
        term *= x / n
        total += term
    return min(1.0, total * math.exp(a * math.log(x) - x - math.lgamma(a)))


def _beta_tail(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b) by its continued fraction (Lentz)."""
    if not 0 < x < 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_tail(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny, c = 1e-300, 1.0
    d = 1 / (1 - (a + b) * x / (a + 1) or tiny)
    value = d
    for m in range(1, 500):
        for part in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + part * d or tiny)
            c = 1 + part / c or tiny
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * value
