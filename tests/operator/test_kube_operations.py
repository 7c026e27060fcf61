"""What the status says of an operation's trace: read back as it was, or not at all."""

from typing import Any

import pytest

from dynamo_operator.kube.operations import Operation, edited_ns, read_operation
from dynamo_telemetry.contexts import SpanContext

OPERATION = Operation(SpanContext(1 << 90, 7, 1), 1_704_153_600_123_456_000, 4, "ScaleUp")
NOTE = OPERATION.note()


def test_a_note_is_read_as_it_was_written() -> None:
    assert NOTE["startedAt"] == "2024-01-02T00:00:00.123456Z"
    assert read_operation({"operation": {"kind": "Move", "trace": NOTE}}) == OPERATION


@pytest.mark.parametrize(
    "operation",
    [
        None,
        {},
        {"trace": None},
        {"trace": {**NOTE, "traceparent": "00-0-0-00"}},
        {"trace": {**NOTE, "startedAt": 7}},
        {"trace": {**NOTE, "startedAt": "yesterday"}},
        {"trace": {**NOTE, "startedAt": "2024-01-02T00:00:00"}},
        {"trace": {**NOTE, "startedAt": "0001-01-01T00:00:00Z"}},
        {"trace": {**NOTE, "generation": "four"}},
        {"trace": {name: value for name, value in NOTE.items() if name != "generation"}},
    ],
)
def test_what_cant_be_read_is_no_operation(operation: Any) -> None:
    assert read_operation({"operation": operation}) is None


def test_the_time_of_an_edit() -> None:
    fields = [
        {"time": "2024-01-01T00:00:00Z"},
        {"time": "2024-01-03T00:00:00Z", "subresource": "status"},
        {"time": "nonsense"},
    ]
    made: dict[str, Any] = {"creationTimestamp": "2023-01-01T00:00:00Z", "managedFields": fields}
    assert edited_ns(made, 2) == 1_704_067_200_000_000_000
    assert edited_ns(made, 1) == 1_672_531_200_000_000_000
    assert edited_ns({}, 1) is edited_ns({}, 2) is None


def test_an_edit_by_the_scale_subresource_has_no_time() -> None:
    # As an API server tells it. The trace of such a scale-up began when the cluster was made.
    applied = {"manager": "kubectl-client-side-apply", "time": "2024-01-01T00:00:00Z"}
    scaled = {"manager": "kubectl", "operation": "Update", "subresource": "scale"}
    assert edited_ns({"managedFields": [scaled, applied]}, 2) is None
