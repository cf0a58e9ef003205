"""Builds the hot path as extension modules; everything else about the package is in pyproject.toml.

The modules below are plain Python that runs as it is. `pip install .` compiles the same files
with Cython, with the C types that the ``.pxd`` file beside each of them declares; those that need
the C library have a twin (``.pyx``). Where no C compiler is, the package installs without them,
and says so. An editable install is never compiled: what is imported must be what is edited.

``POCKETKV_COMPILE`` in the environment: ``require`` makes a failed build fail the installation,
``never`` skips it.
"""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

COMPILED = (
    "pocketkv/crc16.pyx",
    "pocketkv/slots.py",
    "pocketkv/stopwatch.py",
    "pocketkv/resp/syscalls.pyx",
    "pocketkv/resp/byte_sink.pyx",
    "pocketkv/resp/handler.py",
    "pocketkv/resp/parser.py",
    "pocketkv/resp/encoder.py",
    "pocketkv/resp/replies.py",
    "pocketkv/resp/connection.py",
    "pocketkv/resp/client_connection.py",
    "pocketkv/resp/reactor.py",
    "pocketkv/resp/frames.py",
    "pocketkv/engine/sizes.py",
    "pocketkv/engine/arguments.py",
    "pocketkv/engine/extents.py",
    "pocketkv/engine/large_string.py",
    "pocketkv/engine/sinks.py",
    "pocketkv/engine/rdb/crc64.pyx",
    "pocketkv/engine/rdb/lzf.pyx",
    "pocketkv/tiers/memfd.py",
    "pocketkv/tiers/readers.py",
    "pocketkv/tiers/volume/reading.pyx",
    "pocketkv/tiers/volume/async_reads.pyx",
    "pocketkv/tiers/volume/page_cache.py",
    "pocketkv/tiers/volume/eras.py",
    "pocketkv/tiers/volume/records.py",
    "pocketkv/tiers/volume/segment.py",
    "pocketkv/tiers/volume/index_file.py",
    "pocketkv/tiers/volume/state.py",
    "pocketkv/tiers/volume/journal.py",
    "pocketkv/tiers/volume/record_reads.py",
    "pocketkv/tiers/volume/data_file.py",
    "pocketkv/tiers/volume/large_region.py",
    "pocketkv/tiers/volume/large_file.py",
    "pocketkv/tiers/volume/pacing.py",
    "pocketkv/tiers/volume/file_sinks.py",
    "pocketkv/tiers/volume/file_pieces.py",
    "pocketkv/tiers/volume/direct.py",
    "pocketkv/tiers/volume/file_string.py",
    "pocketkv/engine/cold.py",
    "pocketkv/engine/frequency.py",
    "pocketkv/engine/shelf.py",
    "pocketkv/engine/values.py",
    "pocketkv/engine/segments.py",
    "pocketkv/engine/ranking.py",
    "pocketkv/engine/set_value.py",
    "pocketkv/engine/hash_value.py",
    "pocketkv/engine/pending_map.py",
    "pocketkv/engine/stream_ids.py",
    "pocketkv/engine/stream_node.py",
    "pocketkv/engine/stream_entries.py",
    "pocketkv/engine/stream_groups.py",
    "pocketkv/engine/stream_value.py",
    "pocketkv/engine/list_chunks.py",
    "pocketkv/engine/list_value.py",
    "pocketkv/engine/sorted_set_value.py",
    "pocketkv/engine/bits.pyx",
    "pocketkv/engine/hyperloglog.py",
    "pocketkv/engine/commands.py",
    "pocketkv/engine/stats.py",
    "pocketkv/engine/keyspace.py",
    "pocketkv/engine/database.py",
    "pocketkv/engine/session.py",
    "pocketkv/engine/node.py",
    "pocketkv/engine/fetching.py",
    "pocketkv/engine/shrinking.py",
    "pocketkv/engine/gate.py",
    "pocketkv/engine/calling.py",
    "pocketkv/engine/script_calls.py",
    "pocketkv/engine/long_runs.py",
    "pocketkv/engine/scripts.py",
    "pocketkv/lua/direct.pyx",
    "pocketkv/lua/interpreter.py",
    "pocketkv/lua/slices.py",
    "pocketkv/engine/waiters.py",
    "pocketkv/engine/fence.py",
    "pocketkv/engine/handlers/strings.py",
    "pocketkv/engine/handlers/strings_ranges.py",
    "pocketkv/engine/handlers/bitmaps.py",
    "pocketkv/engine/handlers/hashes.py",
    "pocketkv/engine/handlers/lists.py",
    "pocketkv/engine/handlers/hyperloglogs.py",
    "pocketkv/engine/handlers/scripts.py",
    "pocketkv/engine/handlers/sets.py",
    "pocketkv/engine/handlers/streams.py",
    "pocketkv/engine/handlers/streams_groups.py",
    "pocketkv/engine/handlers/streams_reading.py",
    "pocketkv/engine/handlers/sorted_sets.py",
    "pocketkv/engine/handlers/sorted_sets_pops.py",
    "pocketkv/engine/handlers/keys.py",
    "pocketkv/router/counters.py",
    "pocketkv/router/wire.py",
    "pocketkv/router/upstream.py",
    "pocketkv/router/view.py",
    "pocketkv/router/exchange.py",
    "pocketkv/router/lane.py",
    "pocketkv/router/merge.py",
    "pocketkv/router/split.py",
    "pocketkv/router/handler.py",
)

# In these, annotations are C types as well: a decorated function cannot be declared elsewhere. In
# the others they are for people and mypy, and what is compiled stands in the .pxd files.
ANNOTATED = "pocketkv.engine.handlers."

# So many modules are compiled at the same time, each in up to 300 MB: one for each processor that
# may be used, where the system tells.
JOBS = min(8, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 1

# The commands that build a wheel, or build in place. Others (an editable install, metadata) must
# not wait for a compiler.
BUILDING = frozenset({"bdist_wheel", "build_ext"})


def extensions() -> list[Extension]:
    """The extension modules to build."""
    choice = os.environ.get("POCKETKV_COMPILE", "")
    if choice == "never" or not BUILDING.intersection(sys.argv):
        return []
    # Only who builds needs Cython.
    from Cython.Build import cythonize  # noqa: PLC0415

    modules = [
        Extension(
            path.rsplit(".", 1)[0].replace("/", "."),
            [path],
            extra_compile_args=["-O2"],
            # setuptools then reports a failed build, and goes on without the module.
            optional=choice != "require",
        )
        for path in COMPILED
    ]
    built: list[Extension] = []
    for typed in (False, True):
        built += cythonize(  # type: ignore[no-untyped-call]
            [module for module in modules if module.name.startswith(ANNOTATED) is typed],
            build_dir="build/cython",
            compiler_directives={"language_level": 3, "annotation_typing": typed},
            nthreads=JOBS,
        )
    return built


# Those that Cython starts may import this file again.
if __name__ == "__main__":
    setup(ext_modules=extensions(), options={"build_ext": {"parallel": JOBS}})
