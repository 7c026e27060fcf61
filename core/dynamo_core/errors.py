"""The failures that cross a module's door, by whose fault they are.

Owns the exception tree of the core. Foreign errors are translated into one of
these at the door where they appear, with the cause chained.
"""


class DynamoError(Exception):
    """Base of every error that the store raises on purpose."""


class CallerError(DynamoError):
    """The caller's input is wrong; the text says what it holds and what would be right."""


class Unavailable(DynamoError):
    """Too few replicas answered in time; a write may or may not exist afterwards."""

    def __init__(self, detail: str, *, needed: int, got: int) -> None:
        super().__init__(detail)
        self.needed = needed
        self.got = got


class Corrupt(DynamoError):
    """Bytes from a disk or a peer don't have the form they claim."""
