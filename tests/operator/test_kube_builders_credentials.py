"""The Secrets: their form, and what is said of one that somebody has edited."""

import base64
import json
from typing import Any

import pytest
from tests.operator.kube_objects import CLUSTER_ID, IDENTITY, OWNED, OWNER, TOKEN, cluster

from dynamo_core.contexts import Keyring
from dynamo_operator.kube import credentials, names
from dynamo_operator.kube.credentials import DamagedSecret, Identity

CART = cluster()
KEY = "5e" * 32


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def identity(value: object) -> dict[str, Any]:
    return secret("identity", {"identity.json": encoded(json.dumps(value))})


def secret(name: str, data: Any) -> dict[str, Any]:
    return {"metadata": {"name": f"cart-{name}", "namespace": "shop"}, "data": data}


def test_the_identity_as_a_whole() -> None:
    found = credentials.identity_secret(CART, None, IDENTITY)
    text = base64.b64decode(found["data"].pop("identity.json"))
    assert found == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "cart-identity",
            "namespace": "shop",
            "labels": names.labels(CART, "identity"),
        },
        "type": "Opaque",
        "data": {},
    }
    assert json.loads(text) == {
        "cluster": {"name": "cart", "id": CLUSTER_ID},
        "keys": [{"id": 1, "secret": "00" * 32}, {"id": 7, "secret": "07" * 32}],
    }


def test_the_token_as_a_whole() -> None:
    assert credentials.admin_secret(CART, OWNER, TOKEN) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "cart-admin",
            "namespace": "shop",
            "labels": names.labels(CART, "admin"),
            "ownerReferences": OWNED,
        },
        "type": "Opaque",
        "data": {"token": encoded(TOKEN)},
    }


def test_the_identity_goes_with_the_cluster_only_if_its_data_does() -> None:
    for owner, references in ((None, None), (OWNER, OWNED)):
        found = credentials.identity_secret(CART, owner, IDENTITY)
        assert found["metadata"].get("ownerReferences") == references


@pytest.mark.parametrize("signing", [1, 7])
def test_what_was_written_is_read_back(signing: int) -> None:
    """The key that signs stands first in the file: nodes know it by that."""
    keyring = Keyring(signing, {1: bytes(32), 7: b"\x07" * 32})
    made = Identity(CLUSTER_ID, keyring)
    found = credentials.read_identity(credentials.identity_secret(CART, OWNER, made), CART)
    assert found == made
    assert found.keyring.signing_id == signing
    assert credentials.read_token(credentials.admin_secret(CART, OWNER, TOKEN)) == TOKEN


def test_a_token_from_a_file_may_end_with_a_newline() -> None:
    assert credentials.read_token(secret("admin", {"token": encoded(f"{TOKEN}\n")})) == TOKEN


@pytest.mark.parametrize("token", ["", "with a space in it", "ü" * 20, "x" * 4097])
def test_a_token_that_no_header_carries_is_not_taken(token: str) -> None:
    right = "must be a token of 1 to 4096 visible ASCII characters"
    with pytest.raises(ValueError, match=right):
        credentials.admin_secret(CART, OWNER, token)
    with pytest.raises(DamagedSecret, match=f"Secret shop/cart-admin: token {right}"):
        credentials.read_token(secret("admin", {"token": encoded(token)}))


GOOD: dict[str, Any] = {
    "cluster": {"name": "cart", "id": CLUSTER_ID},
    "keys": [{"id": 1, "secret": KEY}],
}


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        (secret("identity", None), "is missing"),
        (secret("identity", {"other": ""}), "is missing"),
        (secret("identity", {"identity.json": 7}), "must be base64, and is an integer"),
        (secret("identity", {"identity.json": "?"}), "is no text in base64"),
        (secret("identity", {"identity.json": "/w=="}), "is no text in base64"),
        (secret("identity", {"identity.json": encoded("{")}), "is not valid JSON"),
        (identity([]), 'must hold {"cluster": {...}, "keys": [...]}'),
        (identity({**GOOD, "cluster": "cart"}), 'must hold {"cluster": {...}, "keys": [...]}'),
        (
            identity({**GOOD, "cluster": {"name": "shop", "id": CLUSTER_ID}}),
            "must have 'cart' as cluster.name",
        ),
        (
            identity({**GOOD, "cluster": {"name": "cart", "id": CLUSTER_ID.upper()}}),
            "must have 32 lower-case hex digits as cluster.id",
        ),
        (identity({**GOOD, "keys": []}), "must list at least one key"),
        (identity({**GOOD, "keys": {"1": KEY}}), "must list at least one key"),
        (identity({**GOOD, "keys": [KEY]}), "must have 64 hex digits as keys[0].secret"),
        (
            identity({**GOOD, "keys": [*GOOD["keys"], {"id": 256, "secret": KEY}]}),
            "must have 0..255 as keys[1].id",
        ),
        (
            identity({**GOOD, "keys": [{"id": True, "secret": KEY}]}),
            "must have 0..255 as keys[0].id",
        ),
        (identity({**GOOD, "keys": GOOD["keys"] * 2}), "has the id 1 twice among its keys"),
        (
            identity({**GOOD, "keys": [{"id": 1, "secret": KEY[:-2]}]}),
            "must have 64 hex digits as keys[0].secret",
        ),
    ],
)
def test_a_damaged_identity_is_named_and_nothing_of_it_is_told(
    damaged: dict[str, Any], told: str
) -> None:
    with pytest.raises(DamagedSecret) as caught:
        credentials.read_identity(damaged, CART)
    assert str(caught.value) == (
        f"Secret shop/cart-identity: identity.json {told}: put back what it held, for it is never "
        "made anew"
    )
    assert KEY[:8] not in str(caught.value)


def test_a_key_is_never_shown() -> None:
    assert KEY not in repr(credentials.read_identity(identity(GOOD), CART))
