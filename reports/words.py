"""Numbers as people read them, and text made safe: for a terminal, and for HTML's neighbours LaTeX, Markdown, CSV.

(HTML itself is escaped by jinja2.) Imports nothing heavy: the command line says all that it says through `visible`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reports.stats import Summary

# ------------------------------------------------------------------------------------------------------- numbers


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits without an exponent where that stays short: 0.0123, 2.04, 1,240."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else "n/a"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return minus(f"{mantissa}e{int(exponent)}")
    return minus(f"{value:,.{max(0, digits - 1 - size)}f}")


def minus(text: str) -> str:
    """A typographic minus sign."""
    return text.replace("-", "−")


def with_interval(summary: Summary, digits: int = 3, scale: float = 1.0) -> tuple[str, str]:
    """("2.08", "± 0.19"), or ("2.08", "") for one seed.

    The half-width keeps two digits when they are below 36, else one (the Particle Data Group's rule), and fixes how
    many decimals the mean is given to. Two or three seeds can not narrow the mean of a positive quantity much: where the
    interval is wider than half the mean, the least and the most of the seeds are given instead, ("24", "(22 – 26)").
    """
    mean = summary.mean / scale
    if summary.half is None:
        return number(mean, digits), ""
    half = summary.half / scale
    if summary.least > 0 and half > mean / 2:
        return number(
            mean, digits
        ), f"({number(summary.least / scale, digits)} – {number(summary.most / scale, digits)})"
    if abs(mean) >= 1e6 or 0 < abs(mean) < 1e-4 or half < 1e-6:
        return number(mean, digits), f"± {number(half, 2)}"
    size = math.floor(math.log10(half))
    decimals = min(5, max(0, (1 if round(half / 10.0 ** (size - 1)) <= 35 else 0) - size))
    return minus(f"{mean:,.{decimals}f}"), f"± {half:,.{decimals}f}"


def alike(mean: float, low: float, high: float) -> tuple[str, str, str]:
    """A number and the ends of its interval with as many decimals as two digits of the half-width need."""
    half = (high - low) / 2
    if half <= 0 or not math.isfinite(half) or abs(mean) >= 1e6 or half < 1e-6:
        return number(mean), number(low), number(high)
    decimals = min(6, max(0, 1 - math.floor(math.log10(half))))
    shown = (minus(f"{v:,.{decimals}f}") for v in (mean, low, high))
    first, second, third = (v.removeprefix("−") if not v.strip("−0.,") else v for v in shown)
    return first, second, third


def ratio(*values: float) -> tuple[str, ...]:
    """Ratios, each to three digits: of 0.05 [0.004, 0.9] no end is 0.00."""
    return tuple(number(v) for v in values)


_SI = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def si_scale(value: float) -> tuple[float, str]:
    """The factor and the prefix that bring a number to 1 ... 1000."""
    for factor, prefix in _SI:
        if abs(value) >= factor * 0.9995:
            return factor, prefix
    return 1.0, ""


def si(value: float, unit: str = "", digits: int = 3) -> str:
    """12.3 TFLOP, 283 k."""
    factor, prefix = si_scale(value)
    return f"{number(value / factor, digits)} {prefix}{unit}".strip()


def seconds_scale(value: float) -> tuple[float, str]:
    """The unit of time that suits a duration."""
    if value == 0 or abs(value) >= 0.9995:
        return (60.0, "min") if abs(value) >= 120 else (1.0, "s")
    return (1e-3, "ms") if abs(value) >= 0.9995e-3 else (1e-6, "µs")


def seconds(value: float, digits: int = 3) -> str:
    if abs(value) >= 2 * 3600:
        return f"{number(value / 3600, digits)} h"
    factor, unit = seconds_scale(value)
    return f"{number(value / factor, digits)} {unit}"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def listing(items: list[str], last: str = "and") -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""


def some(items: Sequence[str], most: int = 7) -> str:
    """The same, naming no more than so many: a, b and 7 others."""
    kept = list(items) if len(items) <= most else list(items[: most - 1])
    return listing(kept if len(kept) == len(items) else [*kept, f"{len(items) - len(kept)} others"])


def plural(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


# -------------------------------------------------------------------------------------------------------- escaping


def plain(text: object) -> str:
    """One line whose every character is seen, so that a name can not reorder or break a page."""
    return visible(str(text)).strip()


def visible(text: str, lines: bool = False) -> str:
    """Text in which all is seen: control, bidirectional, private and unassigned characters as JSON would escape them.

    A byte of a file's name that is no UTF-8 (as `os.fsdecode` keeps it) becomes \\xff. The text ends up on one line, unless
    it is `lines`, which keep their ends and tabs. What is visible already stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _seen(c, lines) for c in text)


def _seen(c: str, lines: bool) -> str:
    if c in "\t\n\r" and (not lines or c != "\r"):
        return c if lines else " "
    if "\udc80" <= c <= "\udcff":
        return f"\\x{ord(c) & 0xFF:02x}"
    if unicodedata.category(c) == "Zs":  # spaces of other widths
        return c
    units = c.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def shortened(text: str, most: int = 38) -> str:
    """At most so many characters, for places with little room; the middle is left out."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def slug(text: object) -> str:
    """A safe file name or element id."""
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-")[:60] or "x"


_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&])")


def markdown(text: object) -> str:
    """Text that renders as itself inside a Markdown paragraph or table cell."""
    return _MARKDOWN.sub(r"\\\1", plain(text)).replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\\&", "&amp;")


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "−": r"$-$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\to$",
    "●": r"\textbullet{}",
    "τ": r"$\tau$",
    "₂": r"$_2$",
    "·": r"$\cdot$",
    "∞": r"$\infty$",
    "²": r"$^2$",
    "µ": r"$\mu$",
    "†": r"$\dagger$",
    "½": r"$\frac{1}{2}$",
    "¼": r"$\frac{1}{4}$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "‖": r"$\Vert$",
}


def tex(text: object) -> str:
    """Text that renders as itself in LaTeX; what an 8-bit engine can not set becomes '?'."""
    return "".join(_TEX.get(c, c if ord(c) < 256 else "?") for c in plain(text))


def csv_text(text: object) -> str:
    """Text of which all is seen, and that a spreadsheet does not take for a formula."""
    kept = "" if text is None else visible(str(text))
    return "'" + kept if kept.lstrip()[:1] in ("=", "+", "-", "@") else kept
