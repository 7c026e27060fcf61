"""How many tokens each node should own: shares by capacity, rounded (P§4.2, §6.2).

Owns the arithmetic of shares, in whole numbers throughout so that every machine rounds
alike. Forbidden here: where on the ring a token lies.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import lcm


def whole_weights(capacities: Sequence[str]) -> list[int]:
    """Decimal capacities as whole numbers in the same ratio."""
    fractions = [Fraction(capacity) for capacity in capacities]
    scale = lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * scale) for fraction in fractions]


def token_targets(
    weights: Mapping[int, int], partitions: int, owned: Mapping[int, int]
) -> dict[int, int]:
    """Tokens per node number: `partitions` shared out by weight, by largest remainder.

    Each is less than one token off its exact share, except where nodes that would get none
    are given one (as long as there are as many tokens as nodes). Of equal remainders those
    win that already own the token in question: rounding by itself moves nothing.
    """
    total = sum(weights.values())
    targets = {number: partitions * weight // total for number, weight in weights.items()}
    by_remainder = sorted(
        weights,
        key=lambda n: (-(partitions * weights[n] % total), targets[n] - owned.get(n, 0), n),
    )
    for number in by_remainder[: partitions - sum(targets.values())]:
        targets[number] += 1
    if partitions >= len(weights):
        for number in sorted(n for n, tokens in targets.items() if not tokens):
            giver = max(
                (n for n, tokens in targets.items() if tokens > 1),
                key=lambda n: (targets[n] * total - partitions * weights[n], targets[n], -n),
            )
            targets[giver] -= 1
            targets[number] = 1
    return targets
