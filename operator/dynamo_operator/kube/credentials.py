"""The Secrets of a cluster: its identity, and the token of admin HTTP.

Owns their form and reading them back; whoever has edited one by hand is told
what is wrong with it, never what it holds. Forbidden: randomness (ids, keys and
tokens are passed in), and deciding to make an identity anew: nodes and disks
know the cluster by it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dynamo_core.contexts import SECRET_BYTES, Keyring
from dynamo_core.errors import CallerError
from dynamo_operator.kube import names
from dynamo_operator.kube.configuration import ADMIN_KEY, IDENTITY_KEY
from dynamo_operator.kube.metadata import metadata
from dynamo_operator.problems import type_name
from dynamo_operator.spec import DynamoCluster

_ID: Final = re.compile(r"[0-9a-f]{32}")
_SECRET: Final = re.compile(rf"[0-9a-fA-F]{{{2 * SECRET_BYTES}}}")
_TOKEN: Final = re.compile(r"[!-~]{1,4096}")
_RIGHT: Final = "must be a token of 1 to 4096 visible ASCII characters"


class DamagedSecret(CallerError):
    """A Secret doesn't hold what it must; the text names it and says what would be right."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A cluster's id (32 hex) and its keys; the signing one stands first in the Secret."""

    cluster_id: str
    keyring: Keyring


def identity_secret(
    cluster: DynamoCluster, owner: names.Owner | None, identity: Identity
) -> dict[str, Any]:
    """What tells nodes whose they are. owner: only while `whenDeleted` is Delete.

    Not immutable, so that keys can be rotated.
    """
    keyring = identity.keyring
    order = sorted(keyring.secrets, key=lambda key_id: (key_id != keyring.signing_id, key_id))
    content = {
        "cluster": {"name": cluster.name, "id": identity.cluster_id},
        "keys": [{"id": key_id, "secret": keyring.secrets[key_id].hex()} for key_id in order],
    }
    text = json.dumps(content, indent=2) + "\n"
    name = names.identity_secret(cluster.name)
    return _secret(cluster, owner, name, "identity", {IDENTITY_KEY: text})


def admin_secret(cluster: DynamoCluster, owner: names.Owner, token: str) -> dict[str, Any]:
    """The bearer token of admin HTTP: 1 to 4096 visible ASCII characters, else ValueError."""
    if _TOKEN.fullmatch(token) is None:
        raise ValueError(_RIGHT)
    return _secret(cluster, owner, names.admin_secret(cluster.name), "admin", {ADMIN_KEY: token})


def read_identity(secret: Mapping[str, Any], cluster: DynamoCluster) -> Identity:
    """The identity that a Secret holds; raises DamagedSecret.

    It is of this cluster by name only: whether the nodes' disks are, their status tells.
    """
    try:
        value = json.loads(_value(secret, IDENTITY_KEY))
    except ValueError as error:
        raise _damaged(secret, IDENTITY_KEY, "is not valid JSON") from error
    part = value.get("cluster") if isinstance(value, dict) else None
    if not isinstance(part, dict):
        raise _damaged(secret, IDENTITY_KEY, 'must hold {"cluster": {...}, "keys": [...]}')
    if part.get("name") != cluster.name:
        raise _damaged(secret, IDENTITY_KEY, f"must have {cluster.name!r} as cluster.name")
    cluster_id = part.get("id")
    if not isinstance(cluster_id, str) or _ID.fullmatch(cluster_id) is None:
        raise _damaged(secret, IDENTITY_KEY, "must have 32 lower-case hex digits as cluster.id")
    return Identity(cluster_id, _keyring(secret, value.get("keys")))


def read_token(secret: Mapping[str, Any]) -> str:
    """The token that a Secret holds, without white space around it; raises DamagedSecret."""
    token = _value(secret, ADMIN_KEY).strip()
    if _TOKEN.fullmatch(token) is None:
        raise _damaged(secret, ADMIN_KEY, _RIGHT)
    return token


def _keyring(secret: Mapping[str, Any], listed: object) -> Keyring:
    if not isinstance(listed, list) or not listed:
        raise _damaged(secret, IDENTITY_KEY, "must list at least one key")
    found: dict[int, bytes] = {}
    for index, item in enumerate(listed):
        at = f"keys[{index}]"
        key_id, text = (item.get("id"), item.get("secret")) if isinstance(item, dict) else (0, 0)
        if type(key_id) is not int or not 0 <= key_id <= 255:
            raise _damaged(secret, IDENTITY_KEY, f"must have 0..255 as {at}.id")
        if key_id in found:
            raise _damaged(secret, IDENTITY_KEY, f"has the id {key_id} twice among its keys")
        if not isinstance(text, str) or _SECRET.fullmatch(text) is None:
            digits = 2 * SECRET_BYTES
            raise _damaged(secret, IDENTITY_KEY, f"must have {digits} hex digits as {at}.secret")
        found[key_id] = bytes.fromhex(text)
    return Keyring(next(iter(found)), found)


def _value(secret: Mapping[str, Any], key: str) -> str:
    data = secret.get("data")
    held = data.get(key) if isinstance(data, Mapping) else None
    if held is None:
        raise _damaged(secret, key, "is missing")
    if not isinstance(held, str):
        raise _damaged(secret, key, f"must be base64, and is {type_name(held)}")
    try:
        return base64.b64decode(held, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _damaged(secret, key, "is no text in base64") from error


def _damaged(secret: Mapping[str, Any], key: str, wrong: str) -> DamagedSecret:
    at = secret.get("metadata") or {}
    name = f"{at.get('namespace', '?')}/{at.get('name', '?')}"
    advice = ": put back what it held, for it is never made anew"
    return DamagedSecret(f"Secret {name}: {key} {wrong}{advice if key == IDENTITY_KEY else ''}")


def _secret(
    cluster: DynamoCluster,
    owner: names.Owner | None,
    name: str,
    component: str,
    texts: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(cluster, owner, name, component),
        "type": "Opaque",
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()},
    }
