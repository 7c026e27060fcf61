"""One table of manifests and edits, as `dynamo local` judges them and as the CRD does."""

import re
from typing import Any

import pytest
from tests.operator.crd_judge import defaulted, judged
from tests.operator.manifest_cases import ACCEPTED, REFUSED, Case, manifest
from tests.operator.manifest_edits import EDITS, Edit

from dynamo_operator import manifest as manifests
from dynamo_operator.changes import changes
from dynamo_operator.manifest import ManifestError
from dynamo_operator.parsing import SpecError, parse


def shown(value: Any) -> str:
    if isinstance(value, Edit):
        return f"{value.before}->{value.after}"[:90]
    return (f"{value.spec}" if value.name == "cart" else value.name)[:90]


def value_of(case: Case) -> Any:
    return manifests.documents(case.yaml)[0].value


@pytest.mark.parametrize("case", ACCEPTED, ids=shown)
def test_what_is_accepted_means_the_same_after_the_api_servers_defaults(case: Case) -> None:
    value = value_of(case)
    assert judged(value) == []
    assert parse(defaulted(value)) == manifests.read(case.yaml).cluster


@pytest.mark.parametrize("case", REFUSED, ids=shown)
def test_what_is_refused_is_told_once_with_its_line_and_field(case: Case) -> None:
    with pytest.raises(ManifestError) as caught:
        manifests.read(case.yaml, "m.yaml")
    told = caught.value.problems
    assert any(case.told in line for line in told), told
    assert all(re.match(r"m[.]yaml:[0-9]+: (spec|metadata)\b", line) for line in told), told
    assert len(told) == 1 or case.spec == {"quorum": {"replication": 1}}, told  # r and w


@pytest.mark.parametrize("case", REFUSED, ids=shown)
def test_what_is_refused_is_told_by_the_definition_too(case: Case) -> None:
    told = judged(value_of(case))
    if case.server_told:
        assert any(case.server_told in line for line in told), told
    else:
        assert told == []


@pytest.mark.parametrize("edit", EDITS, ids=shown)
def test_edits(edit: Edit) -> None:
    before, after = manifest(edit.before), manifest(edit.after)
    try:
        refusals = [c.refusal for c in changes(parse(before), parse(after)) if c.refusal]
    except SpecError as error:
        refusals = [str(problem) for problem in error.problems]
    for told in (refusals, judged(after, before)):
        if edit.told:
            assert any(edit.told in line for line in told), told
        else:
            assert told == []


def test_what_the_api_server_gives_back_edits_to_the_same() -> None:
    """What it filled in is no edit."""
    for case in ACCEPTED:
        value = value_of(case)
        assert judged(defaulted(value), value) == []
        assert changes(parse(value), parse(defaulted(value))) == ()
