"""One load as a picture: latency and throughput over time, and what was done meanwhile.

Pure: a load's report and the scenario's events in, an SVG element as text out. Its colours
are classes of the page (`report_page`); whatever a colour says is also said by form or word.
Forbidden here: files, and what isn't drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from e2e.report import Event
from e2e.report_load import Column, Load, columns, failed, gaps

WIDTH, LEFT, RIGHT = 960.0, 62.0, 948.0
COLUMNS_MAX = 440
"""Two pixels each; of what lies in one, the worst is drawn."""
LANE, LANES_MAX, LETTER = 18.0, 12, 6.4
LATENCY, RATE, SPACE = 150.0, 80.0, 30.0
TICKS_MAX = 10
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_200, 3_600, 7_200, 14_400)


@dataclass(frozen=True, slots=True)
class _Shown:
    """An event on the load's clock, in its lane; a lane of -1 has no room for words."""

    what: str
    began: float
    ended: float | None
    lane: int = -1

    @property
    def times(self) -> str:
        if self.ended is None:
            return f"at {clock(self.began)}"
        return f"{clock(self.began)} to {clock(self.ended)}, {self.ended - self.began:.1f} s"


class _Frame:
    """Where seconds, milliseconds and rates lie, in the picture's units."""

    def __init__(self, shown: Sequence[Column], lanes: int) -> None:
        self.seconds = max(shown[-1].ended, 1e-3)
        self.latency_top = 8 + lanes * LANE + 16
        self.latency_end = self.latency_top + LATENCY
        self.failed_at = self.latency_end + 14
        self.rate_top = self.latency_end + SPACE + 12
        self.rate_end = self.rate_top + RATE
        self.height = self.rate_end + 34
        busy = [one for one in shown if one.operations]
        least = min((max(one.p99_ms, 0.01) for one in busy), default=1.0)
        most = max((max(one.max_ms, 0.01) for one in busy), default=1.0)
        self.decades = range(floor(log10(least)), max(ceil(log10(most)), floor(log10(least)) + 1))
        self.rate_most = nice(max((one.rate for one in shown), default=1.0))

    def x(self, second: float) -> float:
        within = min(max(second / self.seconds, 0.0), 1.0)
        return round(LEFT + within * (RIGHT - LEFT), 1)

    def y_latency(self, ms: float) -> float:
        lowest = self.decades[0]
        part = (log10(max(ms, 10.0**lowest)) - lowest) / len(self.decades)
        return round(self.latency_end - min(part, 1.0) * LATENCY, 1)

    def y_rate(self, rate: float) -> float:
        return round(self.rate_end - RATE * min(rate / self.rate_most, 1.0), 1)


def chart(load: Load, events: Sequence[Event]) -> str:
    """An <svg>; "" where the load has no timeline. Events need the load's `started_at`."""
    drawn = columns(load, COLUMNS_MAX)
    if not drawn:
        return ""
    seconds = drawn[-1].ended
    shown = _in_lanes(_within(events, load.get("started_at"), seconds), seconds)
    frame = _Frame(drawn, max((one.lane + 1 for one in shown), default=0))
    parts = [
        *_axes(frame),
        *_gaps(frame, load),
        *_events(frame, shown),
        f'<path class="rate" d="{_area(frame, drawn)}"/>',
        f'<path class="max" d="{_line(frame, drawn, "max_ms")}"/>',
        f'<path class="p99" d="{_line(frame, drawn, "p99_ms")}"/>',
        *_crosses(frame, drawn),
        *(_tooltip(frame, one, shown) for one in drawn),
    ]
    said = escape(_summary(load, drawn, shown))
    box = f"0 0 {WIDTH:.0f} {frame.height:.0f}"
    body = "\n".join(parts)
    return f'<svg viewBox="{box}" role="img" aria-label="{said}">\n{body}\n</svg>'


def _within(events: Sequence[Event], started_at: float | None, seconds: float) -> list[_Shown]:
    if started_at is None:
        return []
    found = []
    for event in events:
        began = event.began - started_at
        ended = None if event.ended is None else event.ended - started_at
        if began <= seconds and (began if ended is None else ended) >= 0:
            found.append(_Shown(event.what, began, ended))
    return sorted(found, key=lambda one: one.began)


def _in_lanes(events: Sequence[_Shown], seconds: float) -> list[_Shown]:
    """Each in the first lane in which its bar and its words touch nobody else's."""
    free = [LEFT] * LANES_MAX
    found = []
    for one in events:
        begin, end = _extent(one, seconds)
        lane = next((n for n, until in enumerate(free) if until <= begin), -1)
        if lane >= 0:
            free[lane] = end + 6
        found.append(_Shown(one.what, one.began, one.ended, lane))
    return found


def _x(second: float, seconds: float) -> float:
    return LEFT + min(max(second / seconds, 0.0), 1.0) * (RIGHT - LEFT)


def _extent(one: _Shown, seconds: float) -> tuple[float, float]:
    begin = _x(one.began, seconds)
    end = begin if one.ended is None else _x(one.ended, seconds)
    words = _words(one)
    return min(begin, RIGHT - len(words) * LETTER - 14), max(end, begin + len(words) * LETTER + 14)


def _words(one: _Shown) -> str:
    return one.what if len(one.what) <= 60 else one.what[:59] + "…"


def _events(frame: _Frame, shown: Sequence[_Shown]) -> list[str]:
    parts = []
    bottom = frame.rate_end
    for one in shown:
        x, end = frame.x(one.began), frame.x(one.began if one.ended is None else one.ended)
        top = round(8 + max(one.lane, 0) * LANE, 1)
        title = f"<title>{escape(f'{one.what}: {one.times}')}</title>"
        if one.ended is None:
            drawn = (
                f'<path class="moment" d="M{x} {top + 14}V{bottom}"/>'
                f'<path class="moment-head" d="M{x - 5} {top + 3}h10l-5 9z"/>'
            )
            from_x = x + 8
        else:
            wide = round(max(end - x, 2.0), 1)
            drawn = (
                f'<rect class="fault" x="{x}" y="{top}" width="{wide}" height="{bottom - top}"/>'
                f'<path class="fault-edge" d="M{x} {top}V{bottom}M{x + wide:.1f} {top}V{bottom}"/>'
                f'<rect class="fault-bar" x="{x}" y="{top}" width="{wide}" height="15"/>'
            )
            from_x = x + 4
        words = _words(one)
        if from_x + len(words) * LETTER > RIGHT:
            place = f'x="{min(x - 8, RIGHT) if one.ended is None else RIGHT}" text-anchor="end"'
        else:
            place = f'x="{from_x}"'
        label = f'<text class="event" {place} y="{top + 12}">{escape(words)}</text>'
        parts.append(f"<g>{title}{drawn}{label if one.lane >= 0 else ''}</g>")
    return parts


def _gaps(frame: _Frame, load: Load) -> list[str]:
    """Every one, however narrow; the longest has words."""
    found = gaps(load)
    longest = max(found, key=lambda gap: gap[1] - gap[0], default=None)
    top = frame.latency_top
    parts = []
    for began, ended in found:
        x = frame.x(began)
        wide = round(max(frame.x(ended) - x, 2.0), 1)
        high = frame.rate_end - top
        parts.append(
            f'<rect class="gap" x="{x}" y="{top}" width="{wide}" height="{high}">'
            f"<title>nothing returned: {clock(began)} to {clock(ended)}</title></rect>"
        )
    if longest is not None:
        middle = min(max((frame.x(longest[0]) + frame.x(longest[1])) / 2, LEFT + 60), RIGHT - 60)
        words = f"{longest[1] - longest[0]:.0f} s without an answer"
        parts.append(
            f'<text class="gap-words" x="{middle:.1f}" y="{top + 14}" text-anchor="middle">'
            f"{words}</text>"
        )
    return parts


def _axes(frame: _Frame) -> list[str]:
    parts = []
    for power in (*frame.decades, frame.decades[-1] + 1):
        y = frame.y_latency(10.0**power)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{RIGHT}"/>')
        parts.append(_label(LEFT - 6, y + 4, span(10.0**power), "end"))
    for rate in (0.0, frame.rate_most / 2, frame.rate_most):
        y = frame.y_rate(rate)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{RIGHT}"/>')
        parts.append(_label(LEFT - 6, y + 4, f"{rate:,.4g}", "end"))
    step = next((s for s in STEPS_S if frame.seconds / s <= TICKS_MAX), STEPS_S[-1])
    for second in range(0, int(frame.seconds) + 1, step):
        x = frame.x(second)
        parts.append(f'<path class="grid" d="M{x} {frame.rate_end}v5"/>')
        parts.append(_label(x, frame.rate_end + 18, clock(second), "middle"))
    parts.append(_label(LEFT, frame.latency_top - 6, "latency: p99, and the longest (dotted)"))
    parts.append(_label(LEFT, frame.rate_top - 6, "operations a second"))
    return parts


def _label(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(frame: _Frame, shown: Sequence[Column], field: str) -> str:
    """In steps, and broken where nothing returned: no line leads through a gap."""
    path, drawing = [], False
    for one in shown:
        if one.operations:
            y = frame.y_latency(getattr(one, field))
            path.append(f"V{y}" if drawing else f"M{frame.x(one.began)} {y}")
            path.append(f"H{frame.x(one.ended)}")
        drawing = bool(one.operations)
    return "".join(path)


def _area(frame: _Frame, shown: Sequence[Column]) -> str:
    steps = "".join(f"V{frame.y_rate(one.rate)}H{frame.x(one.ended)}" for one in shown)
    return f"M{LEFT} {frame.rate_end}{steps}V{frame.rate_end}Z"


def _crosses(frame: _Frame, shown: Sequence[Column]) -> list[str]:
    parts = []
    y = frame.failed_at
    for one in shown:
        if one.failed:
            x = (frame.x(one.began) + frame.x(one.ended)) / 2
            parts.append(f'<path class="failed" d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"/>')
    return [_label(LEFT - 6, y + 4, "failed", "end"), *parts] if parts else []


def _tooltip(frame: _Frame, one: Column, shown: Sequence[_Shown]) -> str:
    """What happened in a column, under the pointer wherever that is above it."""
    x, top = frame.x(one.began), frame.latency_top
    wide = round(max(frame.x(one.ended) - x, 0.5), 1)
    during = [
        event.what
        for event in shown
        if event.began < one.ended and (event.ended or event.began) >= one.began
    ]
    said = [f"{clock(one.began)}: {one.operations:,} operations, {one.failed:,} requests failed"]
    if one.operations:
        said.append(f"p99 {span(one.p99_ms)}, at most {span(one.max_ms)}")
    title = escape("\n".join(said + during))
    high = frame.rate_end - top
    return (
        f'<rect class="hit" x="{x}" y="{top}" width="{wide}" height="{high}">'
        f"<title>{title}</title></rect>"
    )


def _summary(load: Load, drawn: Sequence[Column], shown: Sequence[_Shown]) -> str:
    worst = max(one.max_ms for one in drawn)
    told = "; ".join(f"{one.what} {one.times}" for one in shown) or "no events"
    return (
        f"A load of {clock(drawn[-1].ended)}: at most {span(worst)} for an operation, "
        f"{failed(load):,} requests failed, {len(gaps(load))} gaps. Meanwhile: {told}"
    )


def clock(seconds: float) -> str:
    """Since the load began."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


def span(ms: float) -> str:
    """A duration as people say it."""
    return f"{ms / 1000:.3g} s" if ms >= 1000 else f"{ms:.3g} ms"


def nice(most: float) -> float:
    """The least of 1, 2, 5, 10, ... (and ten times less and more) that isn't below `most`."""
    if most <= 0:
        return 1.0
    power = 10.0 ** floor(log10(most))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most)
