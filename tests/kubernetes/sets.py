"""StatefulSets whose pods nobody runs: what the backend asks for is there at once, or goes."""

from __future__ import annotations

from tests.kubernetes.connecting import NAMESPACE
from tests.kubernetes.objects import Document, Objects
from tests.kubernetes.remote import RemoteObjects

NOW = {"gracePeriodSeconds": 0}


def is_storage(one: Document) -> bool:
    return (one["metadata"].get("labels") or {}).get("app.kubernetes.io/component") == "storage"


def storage_pods(objects: Objects | RemoteObjects) -> list[Document]:
    """Pods of storage servers that there are."""
    return objects.all(NAMESPACE, "pods", is_storage)


def follow_sets(objects: Objects) -> None:
    """Make the pods that StatefulSets lack, all at once, and have those go that are cut."""
    for one in objects.all(NAMESPACE, "statefulsets"):
        name, replicas = one["metadata"]["name"], one["spec"]["replicas"]
        labels = one["spec"]["template"]["metadata"]["labels"]
        for ordinal in range(replicas):
            pod = f"{name}-{ordinal}"
            if objects.find(NAMESPACE, "pods", pod) is None:
                objects.create(NAMESPACE, "pods", {"metadata": {"name": pod, "labels": labels}})
        for pod in [found["metadata"]["name"] for found in storage_pods(objects)]:
            head, _, ordinal_text = pod.rpartition("-")
            if head == name and int(ordinal_text) >= replicas:
                objects.delete(NAMESPACE, "pods", pod)


def end_pods(objects: Objects) -> None:
    """Have pods gone that were told to go, as a kubelet says when their processes have ended."""
    for one in storage_pods(objects):
        if one["metadata"].get("deletionTimestamp"):
            objects.delete(NAMESPACE, "pods", one["metadata"]["name"], NOW)
