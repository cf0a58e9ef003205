"""Ways to invoke functions: AWS Lambda, or a process on this machine for each of them."""

from __future__ import annotations

import importlib
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

Event = dict[str, Any]
Invoke = Callable[[list[Event]], list[dict[str, Any]]]

CONCURRENCY_MAX = 1000


class FunctionError(RuntimeError):
    """A function has failed; the message is what it says."""


def on_lambda(name: str, client: Any = None) -> Invoke:
    """Invoke a function of AWS Lambda, once for each event, all at the same time.

    Args:
        name: Of the function, or its ARN.
        client: boto3's client of Lambda; made from the environment if not given.
    """

    def invoke_one(event: Event) -> dict[str, Any]:
        answer = client.invoke(FunctionName=name, Payload=json.dumps(event).encode())
        said = json.loads(answer["Payload"].read())
        if "FunctionError" in answer:
            raise FunctionError(f"{name}: {said.get('errorMessage', said)}")
        result: dict[str, Any] = said
        return result

    def invoke(events: list[Event]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(min(len(events), CONCURRENCY_MAX)) as threads:
            return list(threads.map(invoke_one, events))

    if client is None:
        client = _lambda_client()
    return invoke


def _lambda_client() -> Any:
    import boto3  # noqa: PLC0415  # only who uses Lambda needs it
    from botocore.config import Config  # noqa: PLC0415

    # A function may take its time, and must not be invoked twice because of that.
    return boto3.client(
        "lambda",
        config=Config(
            read_timeout=900,
            retries={"total_max_attempts": 1},
            max_pool_connections=CONCURRENCY_MAX,
        ),
    )


def on_this_machine(module: str, processes: int) -> Invoke:
    """Run the handler of a module in processes of its own, as Lambda would."""

    def invoke(events: list[Event]) -> list[dict[str, Any]]:
        # Like functions, processes share nothing with this one.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(len(events), processes), mp_context=context) as pool:
            return list(pool.map(_run, [module] * len(events), events))

    return invoke


def _run(module: str, event: Event) -> dict[str, Any]:
    # What Lambda hands over is JSON.
    answer = importlib.import_module(module).handler(json.loads(json.dumps(event)), None)
    result: dict[str, Any] = json.loads(json.dumps(answer))
    return result
