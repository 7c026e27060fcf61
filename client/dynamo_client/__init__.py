"""Python client and command line of the store.

Owns what runs on the user's side: `DynamoClient` (asynchronous), its twin in
`dynamo_client.sync`, and the `dynamo` command. Forbidden here: imports of node
and operator; the command line finds the operator's commands by entry point.

The names below are loaded when they are first used, so that the command line
starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo_client.client import DynamoClient
    from dynamo_client.errors import (
        BadRequest,
        Denied,
        DynamoClientError,
        NoSingleValue,
        NotFound,
        NotYet,
        Overloaded,
        Siblings,
        TooLarge,
        TooManySiblings,
        Unavailable,
        UnexpectedAnswer,
        Unreachable,
    )
    from dynamo_client.items import Acks, DeleteResult, Item, PutResult, Sibling

__all__ = [
    "Acks",
    "BadRequest",
    "DeleteResult",
    "Denied",
    "DynamoClient",
    "DynamoClientError",
    "Item",
    "NoSingleValue",
    "NotFound",
    "NotYet",
    "Overloaded",
    "PutResult",
    "Sibling",
    "Siblings",
    "TooLarge",
    "TooManySiblings",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
]

_HOMES = {"DynamoClient": "client"} | dict.fromkeys(
    ("Acks", "DeleteResult", "Item", "PutResult", "Sibling"), "items"
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
