"""Deletes what a job has left, and what servers have left that are no more.

Objects are listed and deleted by the thousand, beginnings of objects in parts one by one. Being
interrupted does no harm: what is left is found the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pocketkv.tiers.s3.client import DELETED_AT_ONCE_MAX, Client
from pocketkv.tiers.s3.errors import S3Error


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was deleted.

    Attributes:
        objects: Whole ones.
        uploads: Those of which only parts had arrived.
    """

    objects: int = 0
    uploads: int = 0

    def __add__(self, other: Deleted) -> Deleted:
        return Deleted(self.objects + other.objects, self.uploads + other.uploads)


def delete_all(client: Client, prefix: str, age_min_s: float | None = None) -> Deleted:
    """Delete everything whose name begins with a prefix, or only what has an age.

    Raises:
        S3Error: Something is still there.
    """
    uploads = 0
    for upload in client.list_unfinished(prefix):
        if age_min_s is None or upload.age_s >= age_min_s:
            client.abort_parts(upload.name, upload.upload_id)
            uploads += 1
    objects = 0
    for page in client.list_objects(prefix):
        names = [found.name for found in page if age_min_s is None or found.age_s >= age_min_s]
        for first in range(0, len(names), DELETED_AT_ONCE_MAX):
            some = names[first : first + DELETED_AT_ONCE_MAX]
            failed = client.delete(some)
            if failed:
                name, reason = next(iter(failed.items()))
                raise S3Error(
                    "denied", f"{len(failed)} objects cannot be deleted: {name}: {reason}"
                )
            objects += len(some)
    return Deleted(objects, uploads)


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Says what of a cluster's objects nobody needs.

    Attributes:
        known_jobs: Those that have not ended.
        known_servers: Those that run; None if that is not known.
        server, run: Who asks: what this server wrote in earlier runs is of no use at once.
        age_min_s: Of what others wrote, only what is older: a job or a server may be newer than
            what the caller knows.
    """

    known_jobs: Collection[str]
    known_servers: Collection[str] | None
    server: str
    run: str
    age_min_s: float

    def age_of(self, job_id: str, server: str, run: str) -> float | None:
        """How old what a run of a server wrote for a job must be to go; None: it stays."""
        if server == self.server and run == self.run:
            return None
        if server == self.server:
            return 0.0
        if job_id not in self.known_jobs:
            return self.age_min_s
        if self.known_servers is not None and server not in self.known_servers:
            return self.age_min_s
        return None


def sweep(
    client: Client,
    root: str,
    parse: Callable[[str], tuple[str, str, str] | None],
    leftovers: Leftovers,
) -> Deleted:
    """Delete what nobody needs.

    Args:
        client: The bucket.
        root: What all names of objects of jobs begin with.
        parse: Takes job, server and run from what follows in a name; None if it is not one of ours.
        leftovers: What nobody needs.

    Raises:
        S3Error: Not everything could be looked at.
    """
    # Of a value that is being sent, no object tells in which folder to look.
    folders = {upload.name.rpartition("/")[0] + "/" for upload in client.list_unfinished(root)}
    for job in client.list_folders(root):
        folders.update(f"{root}{job}/{run}/" for run in client.list_folders(f"{root}{job}/"))
    deleted = Deleted()
    for folder in sorted(folders):
        whose = parse(folder[len(root) :])
        age_min_s = leftovers.age_of(*whose) if whose is not None else None
        if age_min_s is not None:
            deleted += delete_all(client, folder, age_min_s)
    return deleted
