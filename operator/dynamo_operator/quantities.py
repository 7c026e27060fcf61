"""Numbers that manifests write as text: Kubernetes quantities and decimals.

Owns their grammar and exact arithmetic (fractions, never floats). Forbidden:
knowledge of which field a number stands in; callers add the field's path.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30}))"
    r"(?P<suffix>|[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})"
)
_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")  # what a ring can hold as a capacity
_SUFFIXES = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    **{letter: Fraction(1000 ** (i + 1)) for i, letter in enumerate("kMGTPE")},
    **{f"{letter}i": Fraction(1024 ** (i + 1)) for i, letter in enumerate("KMGTPE")},
}


def quantity(text: str) -> Fraction:
    """The value of a Kubernetes quantity ("500m", "512Mi", "1e3") in base units.

    Raises ValueError if the text is none. Exponents have at most two digits.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no quantity")
    suffix = match["suffix"]
    if len(suffix) > 1 and suffix[0] in "eE" and suffix[1] != "i":
        scale = Fraction(10) ** int(suffix[1:])
    else:
        scale = _SUFFIXES[suffix]
    return Fraction(match["number"]) * scale


def decimal(text: str) -> Fraction:
    """The value of a plain, unsigned decimal ("0.01", "2"); ValueError if it is none."""
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no decimal")
    return Fraction(text)


def decimal_text(value: Fraction) -> str:
    """A fraction as a decimal string: four significant digits, nine places, no exponent."""
    context = Context(prec=4, rounding=ROUND_HALF_EVEN)
    rounded = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    text = format(rounded, ".9f")
    return text.rstrip("0").rstrip(".")
