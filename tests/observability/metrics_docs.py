"""The tables of docs/metrics.md, made of the names that the code declares.

    python -m tests.observability.metrics_docs

writes them anew; a test fails while they are not what the code says.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from pocketkv.controller import figures as controller
from pocketkv.observability import metrics
from pocketkv.observability.metrics import Name
from pocketkv.router import counters as router
from pocketkv.tiers import figures as medium
from pocketkv.tiers import kept_figures as kept
from pocketkv.tiers import move_metrics

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)


def names_of(module: ModuleType) -> list[Name]:
    """The metrics that a module declares."""
    return [value for value in vars(module).values() if isinstance(value, Name)]


def tables() -> dict[str, Iterable[Name]]:
    return {
        "everywhere": metrics.EVERYWHERE,
        "storage": metrics.ON_STORAGE,
        "medium": names_of(medium),
        "moves": names_of(move_metrics),
        "kept": names_of(kept),
        "router": names_of(router),
        "controller": names_of(controller),
    }


def with_tables(page: str) -> str:
    """The page with its tables made anew."""
    made = tables()
    return TABLE.sub(
        lambda match: match[1] + metrics.reference_table(made[match[2]]) + match[4], page
    )


def main() -> int:
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
