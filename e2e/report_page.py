"""The page of a run: figures, a table of scenarios, and each scenario with what was done to it.

Pure: a `Run` in, one self-contained HTML page out, which asks nobody for anything. It is for
a phone as well as for a wide screen, in light and dark; an outcome is a sign and a word, not
only a colour. All that comes from a run is escaped here or in `report_chart`.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape

from e2e.report import FAILED, PASSED, Event, Run, Scenario, totals
from e2e.report_chart import chart, clock, span
from e2e.report_load import Load, acknowledged, broken, columns, failed, longest_gap_s, operations

SIGNS = {PASSED: "✓", FAILED: "✗"}
HEADINGS = (
    "Scenario",
    "Outcome",
    "Time",
    "Operations",
    "Writes acknowledged",
    "Requests failed (budget)",
    "Promises broken",
    "Longest without an answer",
    "Slowest answer",
    "Recovery",
)

# Blue, green, vermilion and orange of Okabe and Ito, lighter in the dark.
STYLE = """
:root{color-scheme:light dark;--page:#fff;--card:#f5f6f7;--text:#1c1e21;--dim:#5b626a;
--line:#d5d9dd;--p99:#0072b2;--max:#0072b2;--rate:#009e73;--bad:#b84a00;--fault:#e69f00;
--moment:#6b4c9a}
@media (prefers-color-scheme:dark){:root{--page:#15181b;--card:#1f2428;--text:#e7eaed;
--dim:#a2abb4;--line:#3a4148;--p99:#56b4e9;--max:#56b4e9;--rate:#2cc79a;--bad:#ff8a4c;
--fault:#f0b541;--moment:#c3a6ef}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:70rem;background:var(--page);color:var(--text);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:.5rem 0}h2{font-size:1.2rem;margin:0}
h3{font-size:1rem;margin:1rem 0 .3rem}
a{color:inherit}.dim{color:var(--dim)}.bad{color:var(--bad);font-weight:600}
.totals{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:.6rem;
margin:1rem 0}
.totals div{background:var(--card);border-radius:.5rem;padding:.6rem .8rem}
dl,dd{margin:0}dt{color:var(--dim);font-size:.85rem}dd{font-size:1.2rem;font-weight:600}
dd small{display:block;font-size:.8rem;font-weight:400;color:var(--dim)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
.all{min-width:58rem;width:100%}
th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;
overflow-wrap:normal}
td{white-space:nowrap}td:first-child{min-width:9rem;white-space:normal}
th{font-weight:600;vertical-align:bottom}th:first-child,td:first-child{text-align:left}
.events td:nth-child(2){text-align:left;white-space:normal}
article{border-top:2px solid var(--line);margin-top:2rem;padding-top:1rem}
pre{background:var(--card);padding:.7rem;border-radius:.5rem;white-space:pre-wrap;font-size:.8rem;
max-height:30rem;overflow:auto}
figure{margin:1rem 0}figcaption{font-size:.85rem;color:var(--dim)}
svg{display:block;width:100%;min-width:44rem;height:auto;font-size:12px}
svg text{fill:var(--dim)}svg .event{fill:var(--text)}
svg path{fill:none;stroke-width:1.5}
svg .grid{stroke:var(--line);stroke-width:1}
svg .p99{stroke:var(--p99);stroke-width:2}
svg .max{stroke:var(--max);stroke-dasharray:1.5 2.5;opacity:.75}
svg .rate{fill:var(--rate);fill-opacity:.3;stroke:var(--rate)}
svg .failed{stroke:var(--bad);stroke-width:2.5}
svg .fault{fill:var(--fault);fill-opacity:.13}svg .fault-bar{fill:var(--fault);fill-opacity:.45}
svg .fault-edge{stroke:var(--fault);stroke-dasharray:6 3}
svg .moment{stroke:var(--moment);stroke-dasharray:2 3}svg .moment-head{fill:var(--moment)}
svg .gap{fill:var(--bad);fill-opacity:.18;stroke:var(--bad);stroke-dasharray:3 2}
svg .gap-words{fill:var(--bad);font-weight:600}
svg .hit{fill:transparent}svg .hit:hover{fill:var(--text);fill-opacity:.08}
"""

LEGEND = (
    "Line: p99 of each second, log scale; dotted: the longest. Area: operations a second. "
    "Bars and their bands: faults, as long as they lasted; triangles: moments. "
    "Crosses: requests failed. Framed: nothing returned."
)


def page(run: Run) -> str:
    """The whole of it."""
    names = _anchors(run.scenarios)
    rows = "\n".join(map(_row, run.scenarios, names))
    articles = "\n".join(map(_article, run.scenarios, names))
    heads = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    none = "" if run.scenarios else "<p>No scenario was run.</p>"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_verdict(run)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{_verdict(run)}</h1>
<p class="dim">{escape(_circumstances(run))}</p>
{_totals(run)}
</header>
<main>
{none}
<div class="wide"><table class="all">
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
{articles}
</main>
</body>
</html>
"""


def _anchors(scenarios: Iterable[Scenario]) -> list[str]:
    return [f"scenario-{number}" for number, _ in enumerate(scenarios, 1)]


def _verdict(run: Run) -> str:
    found = totals(run)
    if found.failed:
        return f"{SIGNS[FAILED]} {found.failed} of {len(run.scenarios)} scenarios failed"
    if not found.passed:
        return "– Nothing was tried"
    return f"{SIGNS[PASSED]} {found.passed} scenario{'s' * (found.passed > 1)} passed"


def _circumstances(run: Run) -> str:
    began = datetime.fromtimestamp(run.began, UTC)
    said = [f"{began:%Y-%m-%d %H:%M:%S} UTC", f"{clock(totals(run).seconds)} min"]
    if run.seed:
        said.append(f"seed {run.seed}")
    return ", ".join([*said, *([run.versions] if run.versions else [])])


def _totals(run: Run) -> str:
    found = totals(run)
    recovery = "–" if found.recovery_s is None else f"{found.recovery_s:.1f} s"
    cards = [
        ("Scenarios passed", f"{found.passed:,}", "", False),
        ("Scenarios failed", f"{found.failed:,}", "", found.failed > 0),
        ("Scenarios skipped", f"{found.skipped:,}", "", False),
        ("Operations", f"{found.operations:,}", "reads and writes", False),
        ("Writes acknowledged", f"{found.acknowledged:,}", "", False),
        ("Requests failed", f"{found.requests_failed:,}", f"budget {found.budget:,}",
         found.requests_failed > found.budget),
        ("Promises broken", f"{found.promises_broken:,}", "", found.promises_broken > 0),
        ("Slowest recovery", recovery, title(found.recovery_in), False),
        ("Wall time", f"{clock(found.seconds)} min", "", False),
    ]  # fmt: skip
    return '<dl class="totals">{}</dl>'.format(
        "".join(
            f"<div><dt>{name}</dt><dd{_bad(bad)}>{value}"
            f"{f'<small>{escape(more)}</small>' if more else ''}</dd></div>"
            for name, value, more, bad in cards
        )
    )


def _bad(bad: bool) -> str:
    return ' class="bad"' if bad else ""


def _row(scenario: Scenario, anchor: str) -> str:
    loads = scenario.loads
    lost, promises = sum(map(failed, loads)), sum(map(broken, loads))
    drawn = [one for load in loads for one in columns(load)]
    gap = max(map(longest_gap_s, loads), default=0.0)
    of_loads = [
        (f"{sum(map(operations, loads)):,}", False),
        (f"{sum(map(acknowledged, loads)):,}", False),
        (f"{lost:,} ({scenario.budget:,})", lost > scenario.budget),
        (f"{promises:,}", promises > 0),
        (f"{gap:.0f} s" if drawn else "–", False),
        (span(max(one.max_ms for one in drawn)) if drawn else "–", False),
    ]
    recovery = "–" if scenario.recovery_s is None else f"{scenario.recovery_s:.1f} s"
    cells = [
        (_outcome(scenario), scenario.outcome == FAILED),
        (f"{scenario.seconds:.0f} s", False),
        *(of_loads if loads else [("–", False)] * len(of_loads)),
        (recovery, False),
    ]
    link = f'<td><a href="#{anchor}">{escape(title(scenario.name))}</a></td>'
    return f"<tr>{link}{''.join(f'<td{_bad(bad)}>{text}</td>' for text, bad in cells)}</tr>"


def _outcome(scenario: Scenario) -> str:
    return f"{SIGNS.get(scenario.outcome, '–')} {escape(scenario.outcome)}"


def title(name: str) -> str:
    """A test's name as words."""
    return name.removeprefix("test_").replace("_", " ").capitalize()


def _article(scenario: Scenario, anchor: str) -> str:
    outcome = f"<span{_bad(scenario.outcome == FAILED)}>{_outcome(scenario)}</span>"
    parts = [
        f'<article id="{anchor}">',
        f"<h2>{escape(title(scenario.name))}</h2>",
        f'<p class="dim">{outcome} · <code>{escape(scenario.name)}</code></p>',
        *(_figure(load, scenario.events) for load in scenario.loads),
    ]
    story = scenario.story.strip()
    if not story and scenario.outcome == FAILED:
        story = "It was broken off: nobody said how it ended."
    if story:
        opened = " open" if scenario.outcome == FAILED else ""
        parts.append(f"<details{opened}><summary>Why</summary><pre>{escape(story)}</pre></details>")
    if scenario.events:
        parts.append(_events(scenario))
    if said := "\n".join(scenario.lines).strip():
        parts.append(f"<h3>What it told</h3><pre>{escape(said)}</pre>")
    return "\n".join([*parts, "</article>"])


def _figure(load: Load, events: list[Event]) -> str:
    drawn = chart(load, events)
    said = (
        f"{operations(load):,} operations, {acknowledged(load):,} writes acknowledged, "
        f"{failed(load):,} requests failed, {broken(load):,} promises broken."
    )
    what = LEGEND if drawn else "There is no timeline of this load."
    picture = f'<div class="wide">{drawn}</div>' if drawn else ""
    return f"<figure>{picture}<figcaption>{said} {what}</figcaption></figure>"


def _events(scenario: Scenario) -> str:
    zero = min(event.began for event in scenario.events)
    rows = "\n".join(
        f"<tr><td>{datetime.fromtimestamp(event.began, UTC):%H:%M:%S}</td>"
        f"<td>{escape(event.what)}</td><td>{event.began - zero:.1f} s</td>"
        f"<td>{'–' if event.ended is None else f'{event.ended - event.began:.1f} s'}</td></tr>"
        for event in scenario.events
    )
    heads = "".join(f'<th scope="col">{h}</th>' for h in ("UTC", "What", "After", "Lasted"))
    return (
        f'<details><summary>What was done</summary><div class="wide"><table class="events">'
        f"<thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table></div></details>"
    )
