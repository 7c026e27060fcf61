"""The two ways a benchmark ends early. Nothing else lives here."""

from __future__ import annotations


class BenchError(Exception):
    """A cell or a contender failed; the text is for people. Exit code 1."""


class CannotStart(BenchError):
    """Something that the run needs is missing or was asked for wrongly. Exit code 2."""
