#!/usr/bin/env bash
# Runs tests on the compiled hot path, built with AddressSanitizer, in a copy of its own.
#
# Usage: scripts/test-asan.sh TEST... [PYTEST-OPTION...]
#
# Python's own allocator keeps freed memory and hands it out again, which would hide what is looked
# for; so every object comes from malloc. Leaks are not looked for: Python leaves much behind when it
# ends. What the sanitizer finds ends the process that does it, and stands in build/asan-reports.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
copy=$root/build/asan
tools=$root/build/asan-tools
reports=$root/build/asan-reports
python=$root/.venv/bin/python

fail() {
  echo "test-asan: $*" >&2
  exit 2
}

command -v gcc >/dev/null || fail "needs gcc, with its libasan"
library=$(gcc -print-file-name=libasan.so)
[ -e "$library" ] || fail "gcc has no libasan"

rm -rf "$tools" "$reports"
mkdir -p "$tools" "$reports"

# What stands last on the compiler's command line counts, so that setup.py need not know of this.
# Without stacks: greenlet, by which scripts take turns, copies and overwrites them as they are.
cat >"$tools/cc" <<'CC'
#!/bin/sh
exec gcc "$@" -g -O1 -fno-omit-frame-pointer -fsanitize=address --param asan-stack=0
CC
# A Redis that the tests compare with has an allocator of its own, and is not what is tested.
cat >"$tools/redis-server" <<REDIS
#!/bin/sh
unset LD_PRELOAD PYTHONMALLOC
exec "$(command -v redis-server || echo redis-server)" "\$@"
REDIS
chmod +x "$tools/cc" "$tools/redis-server"

"$python" scripts/copy_tree.py "$copy"
cd "$copy"
echo "test-asan: building"
CC=$tools/cc LDSHARED="$tools/cc -shared" POCKETKV_COMPILE=require \
  "$python" setup.py -q build_ext --inplace --parallel 2

sanitized() {
  env PATH="$tools:$PATH" PYTHONPATH="$copy" POCKETKV_TESTS=compiled PYTHONMALLOC=malloc \
    LD_PRELOAD="$library" \
    ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:log_path=$reports/report" \
    "$python" "$@"
}
has_reports() { compgen -G "$reports/report*" >/dev/null; }

# A run that finds nothing says something only if it would have found something.
for module in pocketkv/resp/parser.*.so pocketkv/resp/syscalls.*.so; do
  grep -q __asan_report "$module" || fail "$module is not built with the sanitizer"
done
overflow='import ctypes; b = ctypes.create_string_buffer(64); ctypes.memset(b, 0, 65)'
! sanitized -c "$overflow" && has_reports || fail "the sanitizer overlooks an overflow"
rm "$reports"/*

echo "test-asan: running"
status=0
sanitized -m pytest --timeout 600 "$@" || status=$?

# A server that was ended by a finding may have failed no test.
if has_reports; then
  cat "$reports"/report* >&2
  fail "the sanitizer has found something"
fi
exit "$status"
