"""Random valid edits at random moments, while pods die and requests fail: it always converges.

Each run is named by its seed. DYNAMO_TEST_FUZZ=COUNT runs so many, DYNAMO_TEST_FUZZ_SEED=N
begins with that one.
"""

import contextlib
import os
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.operator.kube_direct import Died, direct_api
from tests.operator.kube_play import Play, playing
from tests.operator.kube_server import Asked, Fault

from dynamo_operator.kube import kinds
from dynamo_operator.kube.errors import KubeError
from dynamo_operator.layout import places
from dynamo_operator.parsing import parse

COUNT = int(os.environ.get("DYNAMO_TEST_FUZZ", "2"))
FIRST = int(os.environ.get("DYNAMO_TEST_FUZZ_SEED", "1"))
MOVES = 40
END_PASSES = 200


@dataclass
class Fuzz:
    play: Play
    draw: random.Random
    done: list[str] = field(default_factory=list)  # for whoever reads a failure

    def note(self, what: str) -> None:
        self.done.append(what)

    # What a person edits

    def edit(self) -> None:
        draw = self.draw
        storage = {"whenScaled": draw.choice(["Delete", "Retain"])}
        pools = [{"name": "large", "replicas": draw.randint(1, 2), "capacity": draw.choice("12")}]
        fields = {
            "replicas": draw.randint(3, 6),
            "pools": draw.choice([[], pools]),
            "quorum": {"r": draw.randint(1, 3), "w": draw.randint(1, 3)},
            "image": draw.choice(["", "dynamo-node:2", "dynamo-node:3", "broken"]),
            "durability": draw.choice(["sync", "buffered"]),
            "resources": {"requests": {"cpu": draw.choice(["1", "2"]), "memory": "1Gi"}},
            "paused": draw.random() < 0.2,
            "storage": storage | {"whenDeleted": draw.choice(["Delete", "Retain"])},
        }
        spec = {name: value for name, value in fields.items() if draw.random() < 0.25}
        self.note(f"edit {spec}")
        self.play.edit(spec)

    # What goes wrong

    def kill(self) -> None:
        """One at a time: what happens when more die is nobody's fault but chance's."""
        pods = self.play.pods()
        if pods and all(self.play._serves(p) for p in self.play.world.all(kinds.POD, "shop")):
            name = self.draw.choice(pods)
            self.note(f"kill {name}")
            self.play.world.remove(kinds.POD, "shop", name)

    def fail(self) -> None:
        verb = self.draw.choice(["create", "patch", "apply", "delete", "evict", "list", "get"])
        code = self.draw.choice([409, 500])
        after = code == 500 and self.draw.random() < 0.5
        self.note(f"fail {verb} {code} {after}")
        self.play.world.fail(verb, code=code, after=after, reason="Conflict")

    def hurt(self) -> None:
        if not self.play.nodes:
            return
        node = self.play.nodes[self.draw.choice(sorted(self.play.nodes))]
        what = self.draw.choice(["recovering", "silent", "unready", "hints"])
        self.note(f"{node.name} {what}")
        node.state = "recovering" if what == "recovering" else "up"
        node.silent, node.ready = what == "silent", what != "unready"
        node.hints = {"somebody": 2} if what == "hints" else {}

    def heal(self) -> None:
        for node in self.play.nodes.values():
            node.state, node.silent, node.ready, node.hints = "up", False, True, {}

    def by_hand(self) -> None:
        sets = self.play.world.all(kinds.STATEFUL_SET, "shop")
        if sets:
            name = self.draw.choice(sets)["metadata"]["name"]
            more = self.draw.choice([1, 2])
            held = self.play.set(name)["spec"]["replicas"]
            self.note(f"{name} by hand to {held + more}")
            spec = {"replicas": held + more}
            self.play.world.edit(kinds.STATEFUL_SET, "shop", name, {"spec": spec})

    def age(self) -> None:
        for pod in self.play.pods():
            self.play.age(pod, 3600)

    # What the operator does

    async def turn(self) -> None:
        for _ in range(self.draw.randint(1, 4)):
            await self._turn()
            self.play.check()

    async def _turn(self) -> None:
        api = None
        if self.draw.random() < 0.2:
            dies_after, lost = self.draw.randint(1, 8), self.draw.random() < 0.5
            self.note(f"the operator dies after {dies_after} writes, the last lost: {lost}")
            api, self.play.mortal = direct_api(self.play.world, dies_after=dies_after, lost=lost)
        with contextlib.suppress(KubeError, Died):
            await self.play.turn(api)
        self.play.mortal = None

    async def asleep(self) -> None:
        """Another operator looked before, and acts now."""
        with contextlib.suppress(KubeError):
            act = await self.play.look(direct_api(self.play.world)[0])
            await self._turn()
            self.note("one that was asleep acts")
            await act()
        self.play.check()

    async def run(self) -> None:
        self.play.apply(replicas=self.draw.randint(3, 5))
        things = [self.edit, self.kill, self.fail, self.hurt, self.heal, self.by_hand, self.age]
        for _ in range(MOVES):
            self.draw.choice([*things, self.edit, self.heal])()
            self.play.speed = self.draw.choice([0, 1, 3, 100])
            await (self.asleep() if self.draw.random() < 0.1 else self.turn())
        await self.end()

    async def end(self) -> None:
        play = self.play
        play.world.mend()
        self.heal()
        play.speed = 1000
        play.edit({"paused": False, "image": "dynamo-node:4"})
        for _ in range(END_PASSES):
            self.heal()
            if await play.turn() == float("inf"):
                break
            play.check()
        await play.until_settled(5)
        spec = {key: part for key, part in play.applied.items() if key != "status"}
        wanted = sorted(place.name for place in places(parse(spec)))
        assert [m.name for m in sorted(play.ring.everybody, key=lambda m: m.name)] == wanted
        assert play.pods() == wanted
        assert {f"data-{name}" for name in wanted} <= set(play.claims())
        told = {one["type"]: one["status"] for one in play.status["conditions"]}
        assert told == {
            "Available": "True",
            "Progressing": "False",
            "Degraded": "False",
            "Blocked": "False",
            "UpdateAvailable": "False",
        }


def guard(play: Play) -> None:
    """The operator takes no serving member away unless all others serve."""
    respond = play.world.respond

    def guarded(asked: Asked, fault: Fault | None = None) -> dict[str, Any]:
        if asked.verb in ("evict", "delete") and asked.kind == kinds.POD and play.ring:
            pods = {p["metadata"]["name"]: p for p in play.world.all(kinds.POD, "shop")}
            serves = {
                m.name: m.name in pods and play._serves(pods[m.name]) for m in play.ring.everybody
            }
            answer = respond(asked, fault)
            away = [name for name, does in serves.items() if not does and name != asked.name]
            assert not (serves.get(asked.name) and away), f"{asked.name} while {away} is away"
            return answer
        return respond(asked, fault)

    play.world.respond = guarded  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
async def test_whatever_happens_it_converges_and_nothing_is_lost(seed: int) -> None:
    async with playing(ready_within_s=1800.0) as play:
        play.bad_images.add("broken")
        guard(play)
        fuzz = Fuzz(play, random.Random(seed))
        try:
            await fuzz.run()
        except BaseException:
            print(f"seed {seed}:", *fuzz.done, sep="\n  ")
            raise
