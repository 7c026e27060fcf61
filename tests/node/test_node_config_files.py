"""Several configuration files, the node's name, and the admin token that is rotated."""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bench.ports import free_ports
from tests.node.node_processes import CLUSTER_ID, SECRET, Cluster, NodeProcess, until

from dynamo_core.errors import CallerError
from dynamo_node import admin_token
from dynamo_node.admin_token import AdminToken
from dynamo_node.config import Config, parse
from dynamo_node.config_files import load

IDENTITY = {"cluster": {"name": "cart", "id": CLUSTER_ID}, "keys": [{"id": 1, "secret": SECRET}]}
NODE = {"data_dir": "/data", "quorum": {"r": 1}, "timing": {"drain_ms": 7}}


def _files(folder: Path, *values: Any) -> list[Path]:
    paths = []
    for at, value in enumerate(values):
        path = folder / f"{'abcdef'[at]}.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        paths.append(path)
    return paths


def _refused(paths: list[Path], name: str | None = None) -> str:
    with pytest.raises(CallerError) as refused:
        load(paths, name)
    return str(refused.value)


def test_files_and_a_name_make_one_configuration(tmp_path: Path) -> None:
    more = {"quorum": {"w": 3}, "timing": {"hedge_ms": 9}}
    config = load(_files(tmp_path, NODE, IDENTITY, more), "cart-default-0")
    assert (config.name, config.cluster_name) == ("cart-default-0", "cart")
    assert (config.settings.r, config.settings.w) == (1, 3)
    assert (config.timing.drain_ms, config.timing.hedge_ms) == (7, 9)
    assert load(_files(tmp_path, {**NODE, "node": {"name": "me"}}, IDENTITY), "me").name == "me"
    assert load(_files(tmp_path, {**NODE, **IDENTITY, "node": {"name": "me"}})).name == "me"


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        ({"data_dir": "/a"}, {"data_dir": "/a"}, "data_dir"),
        ({"quorum": {"r": 1}}, {"quorum": {"r": 2}}, "quorum.r"),
        ({"quorum": {"r": 1}}, {"quorum": 2}, "quorum"),
        ({"quorum": 1}, {"quorum": {"r": 2}}, "quorum"),
        ({"seeds": []}, {"seeds": []}, "seeds"),
    ],
)
def test_a_field_in_two_files_is_named_with_both(
    tmp_path: Path, first: Any, second: Any, field: str
) -> None:
    one, two = _files(tmp_path, first, second)
    assert f"{field}: both {one} and {two} say it; leave it in one" in _refused([one, two])


def test_secrets_in_two_files_are_not_shown(tmp_path: Path) -> None:
    token = {"admin_token": "5ec4e7"}
    assert "5ec4e7" not in _refused(_files(tmp_path, {**NODE, **IDENTITY, **token}, token), "me")


def test_the_name_of_another_is_refused(tmp_path: Path) -> None:
    paths = _files(tmp_path, {**NODE, "node": {"name": "other"}}, IDENTITY)
    assert f"node.name: 'other' in {paths[0]}, but --name is 'me'" in _refused(paths, "me")
    assert "node.name: missing" in _refused(_files(tmp_path, NODE, {**IDENTITY, "node": {}}))
    for name in ("", "$(POD_NAME)"):
        assert f"--name: {name!r}; the node's name is needed" in _refused(paths, name)


def test_all_files_that_cannot_be_read_are_told_at_once(tmp_path: Path) -> None:
    paths = _files(tmp_path, "{", "[]", '{"quorum": {"r": 1, "r": 2}}', IDENTITY)
    said = _refused([*paths, tmp_path / "none.json"], "me")
    assert f"{paths[0]}: not valid JSON" in said
    assert f"{paths[1]}: the file: []; an object is needed" in said
    assert f"{paths[2]}: 'r' stands there twice in one object" in said
    assert f"{tmp_path / 'none.json'}: No such file or directory" in said


# The admin token


def _config(**settings: Any) -> Config:
    return parse({**IDENTITY, "node": {"name": "me"}, "data_dir": "/data", **settings})


def test_off_loopback_one_token_is_needed_and_no_more(tmp_path: Path) -> None:
    path = str(tmp_path / "token")
    assert _config(host="0.0.0.0", admin_token_file=path).admin_token_file == Path(path)
    with pytest.raises(CallerError, match="admin_token: there is an admin_token_file too"):
        _config(admin_token="t", admin_token_file=path)
    with pytest.raises(CallerError, match="admin_token_file: ''; a text that isn't empty"):
        _config(admin_token_file="")
    for host in ("0.0.0.0", "::", "127.example.com", "::2", "localhost.example.com"):
        with pytest.raises(CallerError, match="admin needs a bearer token there"):
            _config(host=host)
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert _config(host=host).admin_token == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file or directory"),
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("two words", "one ASCII word"),
        ("x" * 5000, "one ASCII word"),
        ("é", "one ASCII word"),
    ],
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str | None, why: str) -> None:
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CallerError, match=why) as refused:
        AdminToken(_config(admin_token_file=str(path)))
    assert f"admin_token_file {path}: " in str(refused.value)


class Mounted:
    """A Secret as the kubelet mounts it: every version is a folder, and a symlink says which."""

    def __init__(self, folder: Path, token: str) -> None:
        self.folder = folder
        self.versions = 0
        self.write(token)
        (folder / "token").symlink_to("..data/token")

    def write(self, token: str | None) -> None:
        self.versions += 1
        version = self.folder / f"..{self.versions}"
        version.mkdir()
        if token is not None:
            (version / "token").write_text(token)
        (self.folder / "..new").symlink_to(version.name)
        os.replace(self.folder / "..new", self.folder / "..data")


async def test_a_rotated_secret_is_taken_up_and_a_lost_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = Mounted(tmp_path, "first\n")
    token = AdminToken(_config(admin_token_file=str(tmp_path / "token")))
    assert token.matches(b"first")
    mounted.write("second")
    assert token.matches(b"first"), "it is looked at once a second"
    monkeypatch.setattr(admin_token, "LOOK_S", 0.0)
    await asyncio.sleep(0)
    assert token.matches(b"second")
    assert not token.matches(b"first")
    for lost in (None, "", "two words"):
        mounted.write(lost)
        assert token.matches(b"second")
        assert not token.matches(b"")
    mounted.write("third")
    assert token.matches(b"third")


def test_a_node_in_a_pods_form_serves_both_families_and_takes_up_a_new_token(
    make_cluster: Callable[..., Cluster],
) -> None:
    made = make_cluster(nodes=1, replication=1)
    ports = free_ports(3)
    folder = made.folder / "secret"
    folder.mkdir()
    mounted = Mounted(folder, "one")
    node = NodeProcess(
        made.folder,
        "pod-0",
        (ports[0], ports[1], ports[2]),
        {"host": "::", "admin_token_file": str(folder / "token")},
    )
    del node.settings["node"]
    identity = {name: node.settings.pop(name) for name in ("cluster", "keys")}
    (made.folder / "identity.json").write_text(json.dumps(identity))
    node.more = ("--config", str(made.folder / "identity.json"), "--name", "pod-0")
    made.extra.append(node)
    node.start()

    def status(token: str) -> int:
        try:
            bearer = f"Bearer {token}"
            return node.admin("GET", "/admin/status", Authorization=bearer).status
        except OSError:
            return 0

    until(lambda: status("one"), "it answers", wanted=200)
    assert status("") == 401
    hosts = ["127.0.0.1", *(["::1"] if socket.has_dualstack_ipv6() else [])]
    for host in hosts:
        for port in ports:
            with closing(socket.create_connection((host, port), 5)):
                pass
    mounted.write("two")
    until(lambda: status("two"), "it knows the new token", wanted=200)
    assert status("one") == 401
