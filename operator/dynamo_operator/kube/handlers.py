"""What the API server tells of, turned into wake-ups: the only file that knows kopf.

Owns the watches and kopf's settings. Only event handlers are used, which leave no
trace in an object: no finalizer (`daemon`, `timer` and deletion handlers would add
one, and then nothing could be deleted while the operator is away), no annotation,
no event. Forbidden: all other kinds of handlers, returning anything from one
(kopf would write it into the status), and deciding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import kopf

from dynamo_operator.kube.connection import Connection
from dynamo_operator.kube.kinds import CHILDREN, DYNAMO_CLUSTER
from dynamo_operator.kube.names import CLUSTER_LABEL, GROUP, OPERATOR
from dynamo_operator.kube.tasks import Seen, Tasks

REQUEST_S: Final = 60.0
CONNECT_S: Final = 10.0
STOP_S: Final = 10.0


async def watch(
    connection: Connection,
    tasks: Tasks,
    namespaces: Sequence[str],
    *,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Feeds the tasks until cancelled; () is the whole cluster. Raises what kopf can't mend.

    kopf takes SIGTERM and SIGINT for itself: `started` is called when it has, so that
    the caller can take them back.
    """
    roots = await kopf.spawn_tasks(
        registry=_registry(connection, tasks),
        settings=_settings(),
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        standalone=True,
        # kopf would make one up from the user's name, and in the image the user has none.
        identity=cast("Any", OPERATOR),
    )
    started()
    try:
        done, _ = await asyncio.wait(roots, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise RuntimeError("kopf has ended by itself")
    finally:
        # Not by kopf.run_tasks, which also ends every task that it doesn't know.
        for task in roots:
            task.cancel()
        await asyncio.wait(roots, timeout=STOP_S)


def seen(body: Any) -> Seen:
    """A DynamoCluster object, as the tasks want to know it."""
    metadata = body["metadata"]
    return Seen(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=int(metadata.get("generation") or 1),
        annotations=tuple(sorted((metadata.get("annotations") or {}).items())),
        deleting="deletionTimestamp" in metadata,
    )


def _registry(connection: Connection, tasks: Tasks) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await _credentials(connection)

    @kopf.on.event(
        group=DYNAMO_CLUSTER.group,
        version=DYNAMO_CLUSTER.version,
        plural=DYNAMO_CLUSTER.plural,
        registry=registry,
    )
    async def cluster(event: kopf.RawEvent, **_: Any) -> None:
        told = seen(event["object"])
        if event["type"] == "DELETED":
            tasks.tell_gone(told.namespace, told.name, told.uid)
        else:
            tasks.tell(told)

    for kind in CHILDREN:

        @kopf.on.event(
            group=kind.group,
            version=kind.version,
            plural=kind.plural,
            id=kind.plural,
            registry=registry,
        )
        async def child(event: kopf.RawEvent, **_: Any) -> None:
            metadata = event["object"]["metadata"]
            owner = (metadata.get("labels") or {}).get(CLUSTER_LABEL)
            if owner:
                tasks.wake(metadata["namespace"], owner)

    return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # needs rights on namespaces and CRDs of the whole cluster
    # kopf takes a finalizer of this name off whatever it watches: its usual one may be
    # there for another operator.
    settings.persistence.finalizer = f"{GROUP}/never-set"
    settings.networking.request_timeout = REQUEST_S
    settings.networking.connect_timeout = CONNECT_S
    settings.networking.trust_env = True
    settings.process.ultimate_exiting_timeout = None
    for kind in CHILDREN:
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = CLUSTER_LABEL
    return settings


async def _credentials(connection: Connection) -> kopf.ConnectionInfo:
    """kopf asks again when the server doesn't take the last ones any more."""
    configuration = connection.configuration
    header = await configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = header.rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme.strip() or None,
        token=token.strip() or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
        trust_env=True,
    )
