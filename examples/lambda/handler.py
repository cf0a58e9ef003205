"""A function for AWS Lambda that shuffles through PocketKV, with redis-py and nothing else.

It counts words: mappers split their share of a text by words and leave a part for each reducer,
reducers merge the parts that mappers left for them. Functions cannot talk to each other; what one
stage has computed, the next fetches from PocketKV.

The event names a task, and may bring the job's URL; otherwise it is ``JOB_URL``, a variable of the
function's configuration::

    {"task": "map", "mapper": 0, "reducers": 4, "text": "...", "url": "redis://..."}
    {"task": "reduce", "reducer": 0, "mappers": 8, "url": "redis://..."}

To deploy it: this file and redis-py in one archive, in the VPC's subnets (deploy/aws).
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

# Outside of the handler: a warm function finds its connection open. A job has one URL, so there is
# one connection; a function that is used for the next job connects to that.
_connections: dict[str, redis.Redis] = {}


def connection(url: str) -> redis.Redis:
    """The connection into a job, which is made by the first invocation and kept for the next."""
    if url not in _connections:
        while _connections:
            _connections.popitem()[1].close()
        _connections[url] = redis.Redis.from_url(
            url,
            socket_timeout=30,
            socket_connect_timeout=5,
            # A function that was frozen cannot know that the other side has hung up meanwhile.
            health_check_interval=15,
            # SET and GET may be repeated: a part that is written twice is the same part.
            retry=Retry(ExponentialBackoff(cap=1, base=0.05), retries=6),
        )
    return _connections[url]


def handler(event: dict[str, Any], context: object = None) -> dict[str, Any]:
    """What Lambda calls.

    Raises:
        ValueError: The task is unknown.
        KeyError: A part is missing: its mapper has not run, or the server that held it has died.
    """
    storage = connection(event.get("url") or os.environ["JOB_URL"])
    if event["task"] == "map":
        return map_words(storage, event["mapper"], event["reducers"], event["text"])
    if event["task"] == "reduce":
        return reduce_words(storage, event["reducer"], event["mappers"])
    raise ValueError(f"no task {event['task']!r}")


def map_words(storage: redis.Redis, mapper: int, reducers: int, text: str) -> dict[str, Any]:
    """Leave one part for each reducer; all of them in one round trip."""
    parts = [Counter[str]() for _ in range(reducers)]
    for word in re.findall(r"\w+", text.lower()):
        # Not hash(), which differs between processes.
        parts[zlib.crc32(word.encode()) % reducers][word] += 1
    with storage.pipeline(transaction=False) as pipeline:
        for reducer, part in enumerate(parts):
            pipeline.set(f"map/{mapper}/{reducer}", json.dumps(part))
        pipeline.execute()
    return {"words": sum(part.total() for part in parts)}


def reduce_words(storage: redis.Redis, reducer: int, mappers: int) -> dict[str, Any]:
    """Merge the parts of all mappers, and leave the sum for whoever asked for it."""
    total = Counter[str]()
    names = [f"map/{mapper}/{reducer}" for mapper in range(mappers)]
    for name, part in fetched(storage, names):
        if part is None:
            raise KeyError(name)
        total.update(json.loads(part))
    storage.set(f"reduce/{reducer}", json.dumps(total))
    # Only now, so that a reducer that failed can be invoked again.
    storage.unlink(*names)
    return {"words": total.total(), "different": len(total)}


def fetched(
    storage: redis.Redis, names: list[str], batch: int = 100
) -> Iterator[tuple[str, bytes | None]]:
    """Names and values, some at a time: memory holds one batch, not all that mappers left."""
    for first in range(0, len(names), batch):
        some = names[first : first + batch]
        with storage.pipeline(transaction=False) as pipeline:
            for name in some:
                pipeline.get(name)
            yield from zip(some, pipeline.execute(), strict=True)
