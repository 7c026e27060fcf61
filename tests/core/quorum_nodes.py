"""Who takes part in a quorum: three owners, three others in their order, all of them healthy."""

OWNERS = (1, 2, 3)
OTHERS = (4, 5, 6)


def well(node: int) -> bool:
    return True
