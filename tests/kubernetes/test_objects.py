"""The tests' own API: what a watch is told, whatever happens between two looks."""

from __future__ import annotations

import threading

import pytest

from tests.kubernetes.connecting import NAMESPACE
from tests.kubernetes.objects import Document, Objects, RefusalError


class Meanwhile(threading.Condition):
    """Has objects made while a watch waits, and perhaps all of it forgotten again."""

    def __init__(self, *, compacts: bool) -> None:
        super().__init__()
        self.compacts = compacts
        self.objects = Objects(changed=self)

    def wait(self, timeout: float | None = None) -> bool:
        self.objects.create(NAMESPACE, "pods", {"metadata": {"name": f"p{self.objects.version}"}})
        if self.compacts:
            self.objects.compact()
        return True


def everything(one: Document) -> bool:
    return True


def test_a_watch_tells_what_happened_while_it_waited() -> None:
    objects = Meanwhile(compacts=False).objects
    watch = objects.watch(NAMESPACE, "pods", objects.version, everything)
    told = [next(watch) for _ in range(3)]
    assert [one["type"] for one in told if isinstance(one, dict)] == ["ADDED"] * 3


def test_a_watch_that_was_not_told_of_what_is_forgotten_has_expired() -> None:
    objects = Meanwhile(compacts=True).objects
    watch = objects.watch(NAMESPACE, "pods", objects.version, everything)
    with pytest.raises(RefusalError, match="too old") as refused:
        next(watch)
    assert refused.value.status == 410


def test_a_version_that_is_told_is_one_up_to_which_all_was_told() -> None:
    objects = Meanwhile(compacts=False).objects
    watch = objects.watch(NAMESPACE, "configmaps", objects.version, everything)
    version = next(watch)
    objects.create(NAMESPACE, "configmaps", {"metadata": {"name": "late"}})
    assert isinstance(version, int)
    assert version < objects.version
    event = next(watch)
    assert isinstance(event, dict)
    assert event["object"]["metadata"]["name"] == "late"
