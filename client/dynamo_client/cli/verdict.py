"""What `dynamo verify` says in the end, for people and for programs.

Owns the JSON report, the words and the exit code. Forbidden here: asking the cluster
anything, and judging (`dynamo_core.history_check`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from dynamo_client.cli.terminal import ANSWER_IS_NO, UNREACHABLE, complain, print_json
from dynamo_client.cli.timeline import timeline
from dynamo_core.history import History
from dynamo_core.history_check import check
from dynamo_core.history_report import Report


def say(history: History, facts: Mapping[str, Any], as_json: bool) -> int:
    """Judge the history and say what was found; returns the exit code.

    facts: what the history doesn't hold, such as what the cluster lacks; into the JSON report.
    """
    report = check(history)
    lacking: Sequence[str] = facts.get("lacking", ())
    if as_json:
        print_json(_document(report, history, facts))
    else:
        _tell(report, lacking)
    if not report.ok:
        return ANSWER_IS_NO
    if lacking:
        complain(f"the cluster isn't whole: {'; '.join(lacking)}")
    if report.unchecked:
        complain(f"{len(report.unchecked)} keys couldn't be checked: nothing was read of them")
    return UNREACHABLE if lacking or report.unchecked else 0


def _document(report: Report, history: History, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "violations": [
            {"promise": v.promise, "key": v.key, "write": v.write, "lines": list(v.lines)}
            for v in report.violations
        ],
        "more_violations": report.more,
        "unchecked": report.unchecked,
        "counts": report.counts,
        **facts,
        **timeline(history.operations).document(),
    }


def _tell(report: Report, lacking: Sequence[str]) -> None:
    counts = report.counts
    for violation in report.violations:
        click.echo(f"{violation}\n")
    if report.more:
        click.echo(f"... and {report.more} more\n")
    click.echo(
        f"{counts['writes']:,} writes ({counts['acknowledged']:,} acknowledged, "
        f"{counts['unknown']:,} with unknown outcome, {counts['refused']:,} refused), "
        f"{counts['gets']:,} gets ({counts['unanswered gets']:,} unanswered, "
        f"{counts['floors']:,} with a floor)"
    )
    click.echo(
        f"{counts['stale reads']:,} reads were old, as reads may be while nodes are away; "
        f"{counts['echoes']:,} writes that were tried twice showed twice"
    )
    if not report.ok:
        click.echo(f"{len(report.violations) + report.more} promises broken")
    elif not report.unchecked and not lacking:
        click.echo("every promise kept: nothing acknowledged is lost, nothing deleted came back")
