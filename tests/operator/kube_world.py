"""An emulated Kubernetes cluster for tests: an API server on 127.0.0.1, and controllers by hand.

    async with KubeWorld().serving() as world:
        world.add_node("n1")
        world.add({"kind": "DynamoCluster", "metadata": {...}, "spec": {...}})
        api = await world.api()          # the operator's own door
        world.settle()                   # sets make pods and claims, kubelets start them
        world.fail("evict", code=500)    # the next eviction fails
        assert world.writes() == [...]   # what the server was asked to change

kmock (which the tests of the door use, for scripted answers) has no label selectors,
resource versions, uids, preconditions, server-side apply, sub-resources, evictions or
continuation of a watch; here is the least that an operator can stumble over:
`kube_store` holds the objects, `kube_controllers` acts on them, `kube_server` speaks HTTP.
Everything runs in the test's own loop; no call but `serving` waits.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from aiohttp import web
from kubernetes.aio.client import Configuration
from tests.operator.kube_controllers import Cluster
from tests.operator.kube_patches import Object
from tests.operator.kube_rules import Failure
from tests.operator.kube_server import Asked, Fault, KubeServer

from dynamo_operator.kube import rbac
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.connection import Connection
from dynamo_operator.kube.kinds import LEASE, Kind


@dataclass
class KubeWorld(KubeServer):
    """One cluster. `store` and `cluster` are open to tests that need more."""

    url: str = ""

    def __post_init__(self) -> None:
        self.cluster = Cluster(self.store)
        self.add_node = self.cluster.add_node
        self.add_storage_class = self.cluster.add_storage_class
        self.step = self.cluster.step
        self.settle = self.cluster.settle
        self._connections: list[Connection] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["KubeWorld"]:
        """Listens on a free port of 127.0.0.1 (`url`)."""
        runner = web.ServerRunner(web.Server(self.handle), shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            for connection in self._connections:
                await connection.close()
            self.drop_watches()
            await runner.cleanup()

    def connection(self) -> Connection:
        """Of an operator in this process; closed with the world."""
        self._connections.append(Connection(Configuration(host=self.url)))
        return self._connections[-1]

    def api(self) -> Api:
        """The operator's door to this server."""
        return Api(self.connection(), deadline_s=10.0)

    # What a person, or another program, does.

    def add(self, body: Object) -> Object:
        """kubectl create; by the body's kind."""
        return self.store.create(self.kind_named(body["kind"]), body)

    def edit(self, kind: Kind, namespace: str | None, name: str, changes: Object) -> Object:
        """kubectl patch --type merge."""
        return self.store.patch(kind, namespace, name, changes)

    def remove(
        self, kind: Kind, namespace: str | None, name: str, options: Object | None = None
    ) -> None:
        """kubectl delete --wait=false."""
        self.store.delete(kind, namespace, name, options)

    def find(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        return self.store.find(kind, namespace, name)

    def all(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        return self.store.all(kind, namespace, labels)

    # What goes wrong.

    def fail(
        self,
        verb: str,
        kind: Kind | None = None,
        name: str | None = None,
        *,
        code: int = 500,
        reason: str = "InternalError",
        times: int = 1,
        hang: bool = False,
        after: bool = False,
        **details: object,
    ) -> None:
        """The next requests of that sort fail, or (hang) get no answer.

        `after`: they are carried out all the same, as when an answer is lost.
        """
        failure = Failure(code, reason, "a test wanted this to fail", **details)
        self.faults.append(Fault(verb, kind, name, failure, times, hang, after))

    def mend(self) -> None:
        """Nothing fails any more."""
        self.faults.clear()

    def drop_watches(self) -> None:
        """Every watch ends, as when the API server restarts."""
        for stream in self.streams:
            stream.set()

    def forget_history(self) -> None:
        """Watches can't go on from before now: they get a 410; so do the pages of lists."""
        self.store.forgotten = self.store.version
        self.pages += 1

    def unserve(self, kind: Kind) -> None:
        """The server doesn't know this kind (its CRD isn't there)."""
        self.store.served.remove(kind)

    def serve(self, kind: Kind) -> None:
        self.store.served.append(kind)

    def grant(self, *, cluster_wide: bool = True) -> None:
        """Only what the operator's own roles allow is allowed from now on."""
        rules = rbac.cluster_rules() if cluster_wide else rbac.namespace_rules()
        self.granted = {
            (group, resource, verb)
            for rule in [*rules, *rbac.lease_rules()]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    def writes(self) -> list[Asked]:
        """What was asked for but reading, the lease apart."""
        reading = ("get", "list", "watch")
        return [each for each in self.asked if each.verb not in reading and each.kind != LEASE]
