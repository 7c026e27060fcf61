"""Volumes that can be filled: what kind's own storage makes has no end but the machine's.

Owns a storage class of volumes in memory, one on each worker, and their removal.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from e2e.kube import Kubectl, command
from e2e.machines import HOSTNAME, Machines

MIB = 512


@contextmanager
def small_disks(kubectl: Kubectl) -> Iterator[str]:
    """The name of a storage class with a volume of MIB on each worker."""
    machines = Machines(kubectl)
    name = f"dynamo-e2e-{os.urandom(3).hex()}"
    path = f"/var/local/{name}"
    with ExitStack() as undo:
        undo.callback(kubectl.run, "delete", "storageclass", name, "--wait=false", check=False)
        kubectl.apply(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": name},
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            }
        )
        for machine in machines.workers():
            undo.callback(command, "docker", "exec", machine, "umount", "-l", path, check=False)
            machines.inside(machine, "mkdir", "-p", path)
            machines.inside(machine, "mount", "-t", "tmpfs", "-o", f"size={MIB}m", "tmpfs", path)
            volume = f"{name}-{machine}"
            undo.callback(kubectl.run, "delete", "pv", volume, "--wait=false", check=False)
            kubectl.apply(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": volume},
                    "spec": {
                        "capacity": {"storage": f"{MIB}Mi"},
                        "accessModes": ["ReadWriteOnce"],
                        "persistentVolumeReclaimPolicy": "Retain",
                        "storageClassName": name,
                        "local": {"path": path},
                        "nodeAffinity": {
                            "required": {
                                "nodeSelectorTerms": [
                                    {
                                        "matchExpressions": [
                                            {"key": HOSTNAME, "operator": "In", "values": [machine]}
                                        ]
                                    }
                                ]
                            }
                        },
                    },
                }
            )
        yield name
