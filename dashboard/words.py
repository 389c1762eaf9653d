"""How numbers, times and states are said on screen. Pure: no Streamlit, no HTTP."""

import math
from datetime import UTC, datetime

SIGN = "Positive risk_diff: the expert fires more on unsafe prompts. Negative: more on safe ones."
NOT_A_CAUSE = (
    "Routing follows topic, and a routing difference is not yet a cause: an expert that fires more on unsafe prompts "
    "may only know what they are about."
)
POOLS = {"mean": "mean: every prompt weighs the same", "pooled": "pooled: every token weighs the same"}
SCOPES = {"prompt": "prompt tokens", "response": "response tokens", "last": "last prompt token"}
STATUS = {
    "queued": "waiting",
    "running": "running",
    "succeeded": "finished",
    "failed": "failed",
    "cancelled": "cancelled",
    "measured": "measured",
    "non_finite": "not finite",
    "planned": "not measured yet",
}
UNFINISHED = ("queued", "running")


def count(value: int | None) -> str:
    """4213 -> '4,213'."""
    return "–" if value is None else f"{value:,}"


def signed(value: float | None, digits: int = 3) -> str:
    """0.0714 -> '+0.071', with a real minus sign; an absent or non-finite value is a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def number(value: float | None, digits: int = 3) -> str:
    """A plain decimal with a fixed number of digits."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def p_value(value: float | None) -> str:
    """A p- or q-value: '0.031'; small ones are '< 0.001', never 0."""
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def equals(text: str) -> str:
    """What follows 'p': '= 0.031', '< 0.001'."""
    return text if text.startswith("<") else f"= {text}"


def small(value: float | None) -> str:
    """A probability that may be tiny, with two significant digits and no exponent: '0.0001', '0.031'."""
    if value is None or not math.isfinite(value):
        return "–"
    digits = max(3, 1 - math.floor(math.log10(value))) if value > 0 else 3
    return f"{value:.{min(digits, 12)}f}".rstrip("0").rstrip(".") or "0"


def span(low: float | None, high: float | None, digits: int = 3) -> str:
    """Both ends without signs: '0.912 to 0.964'."""
    return "–" if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"


def times(value: float | None) -> str:
    """A multiple: '1.3 ×'."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.2f} ×"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """Both ends with their signs: '+0.012 to +0.104'."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"{signed(low, digits)} to {signed(high, digits)}"


def percent(value: float | None, digits: int = 1) -> str:
    """0.1243 -> '12.4 %'."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def short_float(value: float | None) -> str:
    """A setting such as a learning rate: '1e-4', '0.05'."""
    if value is None:
        return "–"
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return (
        f"{mantissa}e{int(exponent)}"
        if exponent
        else (mantissa if abs(value) >= 1e-3 or not value else _scientific(value))
    )


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def size(n_bytes: float | None) -> str:
    """Bytes with a binary unit: '8.0 MiB'."""
    if n_bytes is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n_bytes < 1024 or unit == "TiB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return "–"


def sizes(low: float, high: float) -> str:
    """A rough range of bytes in one unit, two digits each: '420 to 830 MiB', '1.4 to 12 GiB'."""
    power = 3 if high >= 2**30 else 2
    ends = [end / 1024**power for end in (low, high)]
    said = [f"{float(f'{end:.2g}'):g}" for end in ends]
    return f"{said[0]} to {said[1]} {'GiB' if power == 3 else 'MiB'}"


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that matter: '42 s', '3 min 5 s', '2 h 10 min'."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def about(low: float, high: float) -> str:
    """A range of seconds: '20 s to 3 min', 'about 2 min' where both ends read the same, 'under 1 s'."""
    if high < 1:
        return "under 1 s"
    ends = [_roughly(end) for end in (low, high)]
    return f"about {ends[0]}" if ends[0] == ends[1] else " to ".join(ends)


def _roughly(seconds: float) -> str:
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{max(1, round(seconds / unit))} {name}"
    return f"{round(seconds / 86400)} d"


def _moment(stamp: str) -> datetime:
    moment = datetime.fromisoformat(stamp)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def ago(stamp: str | None, now: datetime | None = None) -> str:
    """An ISO 8601 time as a distance from now: 'just now', '5 min ago', '3 d ago'."""
    if not stamp:
        return "–"
    seconds = ((now or datetime.now(UTC)) - _moment(stamp)).total_seconds()
    for limit, unit, name in ((45, 1, ""), (3600, 60, "min"), (86400, 3600, "h"), (30 * 86400, 86400, "d")):
        if seconds < limit:
            return f"{max(1, round(seconds / unit))} {name} ago" if name else "just now"
    return _moment(stamp).strftime("%Y-%m-%d")


def between(start: str | None, end: str | None) -> float | None:
    """Seconds from one ISO 8601 time to another; None while either is missing."""
    return (_moment(end) - _moment(start)).total_seconds() if start and end else None


def state(status: str) -> str:
    """The word for a status."""
    return STATUS.get(status, status)


def plural(n: int, one: str, many: str | None = None) -> str:
    """1 -> '1 batch', 3 -> '3 batches'."""
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def batches(n: int) -> str:
    """The plural that English makes irregular."""
    return plural(n, "batch", "batches")


def expert(layer: int, number: int) -> str:
    """How an expert is called: 'Layer 3 · Expert 17'."""
    return f"Layer {layer} · Expert {number}"


def short_hash(digest: str | None) -> str:
    """The first 12 hex digits of a digest."""
    return digest[:12] if digest else "–"
