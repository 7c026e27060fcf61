"""Random histories of one key: which steps of `one_key.World` happen, and how often.

A history depends on the world's random numbers alone, so its seed is its name.
"""

from tests.core.one_key import RECORD, Seen, World


def random_history(world: World, steps: int) -> bytes | None:
    """Drive `world` by its own random numbers and settle it."""
    rng = world.rng
    numbers = list(world.nodes)
    sessions = [Seen() for _ in range(3)]

    def spread(number: int, place: int) -> None:
        for to in numbers:
            if rng.random() < 0.4:
                world.send(number, place, to, rng.choice(numbers) if rng.random() < 0.2 else RECORD)

    for _ in range(steps):
        number = rng.choice(numbers)
        node = world.nodes[number]
        roll = rng.random()
        if roll < 0.34:
            who = rng.randrange(len(sessions))
            how = rng.random()
            if how < 0.3:
                sessions[who] = Seen()
            elif how < 0.6:
                asked = rng.sample(numbers, rng.randint(1, len(numbers)))
                places = [(n, rng.choice([RECORD, *world.nodes[n].live])) for n in asked]
                sessions[who] = world.get(places)
            place = RECORD
            if rng.random() < 0.35:
                place = rng.choice([n for n in numbers if n != number])
            retry = None
            if world.attempts and rng.random() < 0.08:
                retry = rng.randrange(len(world.attempts))
            delete = rng.random() < 0.12
            _, sessions[who] = world.write(number, place, sessions[who], delete=delete, retry=retry)
            spread(number, place)
        elif roll < 0.62 and world.messages:
            index = rng.randrange(len(world.messages))
            if rng.random() < 0.15:
                world.messages.pop(index)
            else:
                world.deliver(index, again=rng.random() < 0.15)
        elif roll < 0.72 and node.live:
            place = rng.choice([*node.live])
            world.send(number, place, place or rng.choice(numbers), RECORD)
        elif roll < 0.78:
            world.sync(number)
        elif roll < 0.83:
            world.forget(number, RECORD)
        elif roll < 0.87:
            world.pull(number, rng.choice(numbers))
        elif roll < 0.92:
            world.restart(number, "power cut", rng.randrange(len(node.stores)))
        elif roll < 0.94:
            world.restart(number, rng.choice(["clean", "clean", "kill"]))
        elif roll < 0.97:
            world.take_snapshot(number)
        elif node.snapshot:
            world.restart(number, "roll back")
    return world.settle()
