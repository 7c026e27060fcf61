"""Net: simulated TCP between the processes of one world, and what befalls it.

Owns listeners, connections and one `Link` for each direction between two hosts,
with its latency and its faults. A connection carries bytes in order unless its
link has frame faults: then whole frames after the handshake are lost, doubled
or overtaken, which no TCP would do to them. Blocked links hold what is sent; when they
open again it arrives late, unless the connection was given up meanwhile.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.sim.loop import NodeLoop, Scheduler

FIRST_REQUEST_TYPE: Final = 16
"""Frame types below are the handshake's: TCP's promises hold for them."""
SYN_RETRY_S: Final = 1.0
_FIN: Final = object()
_RESET: Final = object()


@dataclass(slots=True)
class Link:
    """One direction between two hosts; times in seconds, faults as probabilities per frame."""

    latency_s: float
    jitter_s: float
    slow_s: float = 0.0
    blocked: bool = False
    lose: float = 0.0
    double: float = 0.0
    overtake: float = 0.0
    overtake_s: float = 0.5

    def calm_frames(self) -> None:
        """TCP's promises hold again."""
        self.lose = self.double = self.overtake = 0.0


class Network:
    """All hosts' connections; `rng` decides every delay and every fault."""

    def __init__(self, scheduler: Scheduler, rng: Random) -> None:
        self.scheduler = scheduler
        self.rng = rng
        self.buffer_scale = 1.0
        """Of the send buffers that nodes ask for; small ones make congestion."""
        self.sent: Counter[int] = Counter()
        """Frames sent after the handshake, by type."""
        self.faults: Counter[str] = Counter()
        self.on_frame: Callable[[str, str, bytes], None] | None = None
        self.on_doubled: Callable[[bytes], None] = lambda frame: None
        """Told of every frame that is sent, for traces: from, to, bytes."""
        self.lost: frozenset[int] = frozenset()
        """Types of frames that don't arrive, for scripted schedules."""
        self._links: dict[tuple[str, str], Link] = {}
        self._listeners: dict[tuple[str, int], tuple[NodeLoop, Callable[[], Any]]] = {}
        self._unpowered: set[str] = set()
        self._open: dict[int, Transport] = {}
        self._count = 0

    # Hosts

    def link(self, source: str, target: str) -> Link:
        """The direction from one host to another, made at first use."""
        found = self._links.get((source, target))
        if found is None:
            rng = self.rng
            found = Link(rng.uniform(0.0001, 0.002), rng.uniform(0.0001, 0.001))
            self._links[source, target] = found
        return found

    def links(self) -> list[Link]:
        return list(self._links.values())

    def listen(self, host: str, port: int, loop: NodeLoop, factory: Callable[[], Any]) -> None:
        """Accept connections; each makes its protocol by `factory`, in `loop`."""
        self._listeners[host, port] = loop, factory

    def listener(self, host: str, port: int) -> tuple[NodeLoop, Callable[[], Any]] | None:
        """Who listens there, and how it makes its protocols."""
        return self._listeners.get((host, port))

    def stop_listening(self, host: str) -> None:
        for address in [a for a in self._listeners if a[0] == host]:
            del self._listeners[address]

    def process_gone(self, loop: NodeLoop) -> None:
        """A process ended: the kernel resets its connections."""
        self.stop_listening(loop.name)
        for transport in self._of(loop):
            transport.vanish()
            transport.tell_peer(_RESET)

    def power_off(self, loop: NodeLoop) -> None:
        """The machine is dark: nobody is told."""
        self.stop_listening(loop.name)
        self._unpowered.add(loop.name)
        for transport in self._of(loop):
            transport.vanish()

    def power_on(self, host: str) -> None:
        """The machine is back and knows nothing of its old connections."""
        if host not in self._unpowered:
            return
        self._unpowered.discard(host)
        for transport in list(self._open.values()):
            peer = transport.peer
            if transport.remote == host and peer is not None and peer.gone and transport.unheard:
                # What was sent meanwhile is sent again, and answered by a reset.
                delay = self.rng.uniform(0.05, 2.0)
                self.scheduler.at(self.scheduler.now + delay, transport.loop, transport.was_reset)

    def reset_some(self, count: int) -> int:
        """Break up to `count` open connections, as a firewall does that forgets."""
        chosen = self.rng.sample(sorted(self._open), min(count, len(self._open)))
        for number in chosen:
            transport = self._open.get(number)
            if transport is not None:
                self.scheduler.soon(transport.loop, transport.was_reset, ())
                transport.tell_peer(_RESET)
        return len(chosen)

    def flush(self, source: str, target: str) -> None:
        """A blocked link is open again: send what it held."""
        for transport in list(self._open.values()):
            if transport.host == source and transport.remote == target:
                transport.send_held()

    def _of(self, loop: NodeLoop) -> "list[Transport]":
        return [t for t in self._open.values() if t.loop is loop]

    # Connections

    async def connect(
        self, loop: NodeLoop, factory: Callable[[], Any], host: str, port: int
    ) -> tuple["Transport", Any]:
        """`create_connection` of a simulated process; whoever calls bounds the time."""
        there, back = self.link(loop.name, host), self.link(host, loop.name)
        while True:
            if not there.blocked:
                await asyncio.sleep(self.delay(there))
                if not back.blocked and host not in self._unpowered:
                    found = self.listener(host, port)
                    await asyncio.sleep(self.delay(back))
                    if found is None or found[0].dead:
                        raise ConnectionRefusedError(f"nobody listens at {host}:{port}")
                    break
            await asyncio.sleep(SYN_RETRY_S)
        server_loop, _ = found
        near = Transport(self, loop, loop.name, host)
        far = Transport(self, server_loop, host, loop.name)
        near.peer, far.peer = far, near
        for transport in (near, far):
            self._count += 1
            transport.number = self._count
            self._open[self._count] = transport
        protocol = factory()
        near.protocol = protocol
        self.scheduler.soon(server_loop, far.accepted, (port,))
        protocol.connection_made(near)
        return near, protocol

    def forget(self, transport: "Transport") -> None:
        self._open.pop(transport.number, None)

    def is_dark(self, host: str) -> bool:
        return host in self._unpowered

    def delay(self, link: Link) -> float:
        rng = self.rng
        delay = link.latency_s + rng.random() * link.jitter_s
        if link.slow_s:
            delay += rng.random() * link.slow_s
        return delay


class Transport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, net: Network, loop: NodeLoop, host: str, remote: str) -> None:
        super().__init__()
        self.net = net
        self.loop = loop
        self.host = host
        self.remote = remote
        self.number = 0
        self.peer: Transport | None = None
        self.protocol: Any = None
        self.gone = False
        """Of a process that is no more; the other end may not know yet."""
        self.unheard = False
        """Sent something into the dark that nobody acknowledged."""
        self._link = net.link(host, remote)
        self._closing = False
        self._lost = False
        self._last_arrival = 0.0
        self._held: list[Any] = []
        self._held_bytes = 0
        self._high = 64 << 10
        self._writing_paused = False
        self._reading = True
        self._inbox: list[Any] = []

    # What asyncio's protocols use

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self.remote, 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is not None:
            self._high = max(1024, int(high * self.net.buffer_scale))

    def get_write_buffer_size(self) -> int:
        return self._held_bytes

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        inbox, self._inbox = self._inbox, []
        for item in inbox:
            self.net.scheduler.soon(self.loop, self._arrived, (item,))

    def write(self, data: bytes) -> None:
        if not self._closing and data:
            self._send(data)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._send(_FIN)
            self.net.scheduler.soon(self.loop, self._lose, (None,))

    def abort(self) -> None:
        if not self._lost:
            self._closing = True
            self._held.clear()
            self._held_bytes = 0
            self.tell_peer(_RESET)
            self.net.scheduler.soon(self.loop, self._lose, (None,))

    # Sending

    def tell_peer(self, what: Any) -> None:
        """Send one of the marks that end a connection."""
        self._send(what)

    def _send(self, item: Any) -> None:
        net, link = self.net, self._link
        if link.blocked or self._held:
            self._hold(item)
            return
        if isinstance(item, bytes):
            frames = _frames(item)
            for frame in frames:
                net.sent[frame[4]] += 1
                if net.on_frame is not None:
                    net.on_frame(self.host, self.remote, frame)
            if net.lost and frames[0][4] in net.lost:
                return
            if (link.lose or link.double or link.overtake) and frames[0][4] >= FIRST_REQUEST_TYPE:
                for frame in frames:
                    self._send_frame(frame)
                return
        self._carry(item)

    def _send_frame(self, frame: bytes) -> None:
        net, link = self.net, self._link
        rng = net.rng
        if link.lose and rng.random() < link.lose:
            net.faults["frames lost"] += 1
            return
        if link.double and rng.random() < link.double:
            net.faults["frames doubled"] += 1
            net.on_doubled(frame)
            self._deliver(net.scheduler.now + rng.random() * link.overtake_s + 0.01, frame)
        if link.overtake and rng.random() < link.overtake:
            net.faults["frames overtaken"] += 1
            self._deliver(net.scheduler.now + rng.random() * link.overtake_s, frame)
            return
        self._carry(frame)

    def _carry(self, item: Any) -> None:
        """Deliver in order."""
        net = self.net
        arrival = max(self._last_arrival, net.scheduler.now + net.delay(self._link))
        self._last_arrival = arrival
        if isinstance(item, bytes) and len(item) > 1 and net.rng.random() < 0.01:
            # TCP knows no frames; both parts arrive at once, so that nothing comes between.
            cut = net.rng.randrange(1, len(item))
            self._deliver(arrival, item[:cut])
            item = item[cut:]
        self._deliver(arrival, item)

    def _deliver(self, arrival: float, item: Any) -> None:
        peer = self.peer
        assert peer is not None
        # The kernel receives, whether or not the process is there; a stalled loop waits.
        loop = None if peer.loop.dead else peer.loop
        self.net.scheduler.at(arrival, loop, peer._arrived, item)

    def _hold(self, item: Any) -> None:
        if not self._held:
            give_up = self.net.rng.uniform(3.0, 30.0)
            now = self.net.scheduler.now
            self.net.scheduler.at(now + give_up, self.loop, self._give_up, now)
            self._held_since = now
        self._held.append(item)
        if isinstance(item, bytes):
            self._held_bytes += len(item)
            if self._held_bytes > self._high and not self._writing_paused:
                self._writing_paused = True
                self.protocol.pause_writing()

    def _give_up(self, since: float) -> None:
        if self._held and self._held_since == since:
            self.net.faults["connections given up"] += 1
            self.was_reset()

    def send_held(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        for item in held:
            self._send(item)
        if self._writing_paused and not self._lost:
            self._writing_paused = False
            self.net.scheduler.soon(self.loop, self.protocol.resume_writing, ())

    # Receiving

    def accepted(self, port: int) -> None:
        """The process takes the connection, if it still listens: it may have stood still."""
        listener = self.net.listener(self.host, port)
        if listener is None or listener[0] is not self.loop:
            self.abort()
        elif not self._lost:
            self.protocol = listener[1]()
            self.protocol.connection_made(self)

    def _arrived(self, item: Any) -> None:
        if self.gone or self._lost or self.loop.dead:
            peer = self.peer
            if peer is not None and not peer._lost and item is not _RESET:
                if self.net.is_dark(self.host):
                    peer.unheard = True
                elif not self.net.link(self.host, self.remote).blocked:
                    delay = self.net.delay(self.net.link(self.host, self.remote))
                    self.net.scheduler.at(self.net.scheduler.now + delay, peer.loop, peer.was_reset)
            return
        if not self._reading and item is not _RESET:
            self._inbox.append(item)
        elif item is _RESET:
            self.was_reset()
        elif item is _FIN:
            if not self._closing:
                self._closing = True
                self._lose(None)
        elif not self._closing:
            self.protocol.data_received(item)

    def was_reset(self) -> None:
        """The connection broke; this end learns it now."""
        self._closing = True
        self._lose(ConnectionResetError("the connection was reset"))

    def vanish(self) -> None:
        """The process of this end is gone."""
        self.gone = True
        self._lost = self._closing = True
        self.net.forget(self)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self.net.forget(self)
            if self.protocol is not None:
                self.protocol.connection_lost(error)


def _frames(data: bytes) -> list[bytes]:
    """The whole frames that one write is made of."""
    length = 4 + int.from_bytes(data[:4], "big")
    if length == len(data):
        return [data]
    frames, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        frames.append(data[at:end])
        at = end
    return frames
