"""What RQ's workers are given to do; a worker imports it by its name."""

from __future__ import annotations

from rq import get_current_job


def add(a: int, b: int) -> int:
    return a + b


def fail_at_first(times: int) -> str:
    """Fail so many times, which the job itself remembers."""
    job = get_current_job()
    assert job is not None  # A worker runs it.
    failures = job.meta.get("failures", 0)
    if failures < times:
        job.meta["failures"] = failures + 1
        job.save_meta()  # type: ignore[no-untyped-call]
        raise RuntimeError(f"failure {failures + 1}")
    return f"after {failures} failures"
