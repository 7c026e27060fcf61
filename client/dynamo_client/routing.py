"""Which node to try next.

Owns the list of nodes (the URLs that were given, and those that `/cluster`
named) and what is known of their health. Pure: the time is passed in.
Forbidden here: I/O and clocks.

A node takes requests while it is *proven*: it answered a probe or a request
since its last failure. URLs that were given count as proven until they fail;
nodes that `/cluster` named have to be probed first, because their addresses
may mean nothing here (a port-forward into a Kubernetes cluster, for example).
"""

from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from dynamo_client.errors import BadRequest

PROBE_DELAY_SECONDS_MIN = 0.5
PROBE_DELAY_SECONDS_MAX = 10.0
_MEMBER_STATES_UNUSED = frozenset({"left", "joining"})
_LEAVING, _DOWN = "leaving", "down"


class Nodes:
    """The known nodes, by base URL without a trailing slash."""

    def __init__(self, given: Iterable[str]) -> None:
        self._given = tuple(dict.fromkeys(base_url(url) for url in given))
        if not self._given:
            raise BadRequest("no URL of a node was given; for example http://127.0.0.1:8100")
        self._proven: dict[str, bool] = dict.fromkeys(self._given, True)
        # url -> (when to probe next, the delay after that probe fails), in seconds
        self._probes: dict[str, tuple[float, float]] = {}
        self._turn = 0

    @property
    def known(self) -> tuple[str, ...]:
        """Every node that may be tried, given ones first."""
        return tuple(self._proven)

    @property
    def count(self) -> int:
        """How many nodes may be tried."""
        return len(self._proven)

    @property
    def proven(self) -> tuple[str, ...]:
        """The nodes that take requests."""
        return tuple(url for url, proven in self._proven.items() if proven)

    def learn(self, named: Iterable[tuple[str, str]], now: float) -> None:
        """Take over (url, state) of every node that `/cluster` names; the given ones stay.

        Who leaves still serves, but not for long: it is used only if there is nobody else.
        Who is down is so by the word of the node that was asked. That one may be cut off from
        all others, so they stay, and whether they answer here decides.
        """
        wanted = dict.fromkeys(self._given)
        used = [(url, state) for url, state in named if state not in _MEMBER_STATES_UNUSED]
        there = [(url, state) for url, state in used if state != _DOWN]
        staying = [url for url, state in there if state != _LEAVING]
        down = [url for url, state in used if state == _DOWN]
        for url in (staying or [url for url, _ in there]) + down:
            wanted[base_url(url)] = None
        for url in wanted:
            if url not in self._proven:
                self._proven[url] = False
                self._probes[url] = (now, PROBE_DELAY_SECONDS_MIN)
        for url in [url for url in self._proven if url not in wanted]:
            del self._proven[url]
            self._probes.pop(url, None)

    def order(self) -> list[str]:
        """Nodes to try for one request, best first: proven ones by turns, then the others."""
        proven = list(self.proven)
        self._turn += 1
        if proven:
            start = self._turn % len(proven)
            proven = proven[start:] + proven[:start]
        return proven + [url for url, is_proven in self._proven.items() if not is_proven]

    def next_try(self, owners: Iterable[str], tried: Collection[str]) -> str | None:
        """The best node for one more try: a proven one of `owners`, else as `order` has it."""
        for url in owners:
            if url not in tried and self._proven.get(url):
                return url
        return next((url for url in self.order() if url not in tried), None)

    def succeeded(self, url: str) -> None:
        """The node answered."""
        if self._proven.get(url) is False:
            self._proven[url] = True
            self._probes.pop(url, None)

    def failed(self, url: str, now: float) -> None:
        """The node didn't answer a request or a probe; it is probed again later."""
        if url not in self._proven:
            return
        self._proven[url] = False
        _, delay = self._probes.get(url, (0.0, PROBE_DELAY_SECONDS_MIN))
        self._probes[url] = (now + delay, min(delay * 2, PROBE_DELAY_SECONDS_MAX))

    def due(self, now: float) -> list[str]:
        """Nodes to probe now."""
        return [url for url, (when, _) in self._probes.items() if when <= now]

    def next_probe(self) -> float | None:
        """When the next probe is due; None if every node is proven."""
        return min((when for when, _ in self._probes.values()), default=None)


def base_url(url: str) -> str:
    """The URL of a node without path and trailing slash; BadRequest says what is wrong."""
    text = url.strip()
    if "://" not in text:
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise BadRequest(f"the URL {url!r} is not valid: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRequest(f"the URL {url!r} is not one of a node; like http://127.0.0.1:8100")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise BadRequest(f"the URL {url!r} has a path; a node's URL ends after host and port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")
