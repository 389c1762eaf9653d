"""How a report writes numbers, counts and foreign text. The minus sign is a minus sign; nothing is rounded to zero."""

import math
import unicodedata
from collections.abc import Sequence

_BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
NOTHING = "–"


def shown(text: str) -> str:
    """Return foreign text on one line with nothing invisible in it: control and direction characters become escapes."""
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    hidden = (
        unicodedata.category(char) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") or unicodedata.bidirectional(char) in _BIDI
    )
    if not hidden:
        return char
    return " " if char in "\t\n\r" else char.encode("unicode_escape").decode()


def count(n: float) -> str:
    """1234567 -> '1,234,567'."""
    return f"{n:,.0f}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """1 -> '1 prompt', 3 -> '3 prompts'."""
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def listed(items: Sequence[str]) -> str:
    """['a', 'b', 'c'] -> 'a, b and c'."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1]))) if items else "none"


def decimals_for(largest: float) -> int:
    """Return how many decimals differences up to `largest` need: three digits of the largest, four at least."""
    return 4 if not largest > 0 else max(4, 2 - math.floor(math.log10(largest)))


def number(value: float | None, decimals: int = 4) -> str:
    """0.25 -> '0.2500'; nothing -> a dash."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.{decimals}f}".replace("-", "−")


def signed(value: float | None, decimals: int = 4) -> str:
    """0.25 -> '+0.2500', -0.25 -> '−0.2500'."""
    return NOTHING if value is None or math.isnan(value) else f"{value:+.{decimals}f}".replace("-", "−")


def interval(low: float | None, high: float | None, decimals: int = 4) -> str:
    """Return '[low, high]', signed; a dash where there is none."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return NOTHING
    return f"[{signed(low, decimals)}, {signed(high, decimals)}]"


def p_value(p: float | None) -> str:
    """Four decimals, or a power of ten below that: a p-value is never 0."""
    if p is None or math.isnan(p):
        return NOTHING
    return f"{p:.4f}" if p >= 9.5e-5 else f"{p:.1e}"


def percent(share: float | None, decimals: int = 1) -> str:
    """0.123 -> '12.3 %'."""
    return NOTHING if share is None or math.isnan(share) else f"{100 * share:.{decimals}f} %"


def day(stamp: str | None) -> str:
    """Return the date and minute of an ISO 8601 time, UTC."""
    return NOTHING if not stamp else f"{stamp[:10]} {stamp[11:16]} UTC"
