#!/usr/bin/env bash
# Run pytest with the Python and the arguments given. In continuous integration (CI is set), a few
# tests that failed are run once more, alone: what a busy machine did to one of thousands of tests
# that start processes must not hide what the others found. What fails twice has failed, and what
# passed only then is listed as flaky, for somebody to mend.
set -uo pipefail

PYTHON=$1
shift
# More than so many did not fail by chance.
readonly RETRIED_MAX=5
readonly SOME_FAILED=1

"$PYTHON" -m pytest "$@"
status=$?
if [[ $status -ne $SOME_FAILED || -z ${CI:-} ]]; then
  exit $status
fi

failed=$("$PYTHON" - <<'EOF'
import json
import pathlib

path = pathlib.Path(".pytest_cache/v/cache/lastfailed")
print(*(json.loads(path.read_text()) if path.exists() else ()), sep="\n")
EOF
)
count=$(grep -c . <<<"$failed")
if ((count == 0 || count > RETRIED_MAX)); then
  exit $status
fi
printf '\n%d failed, and are run once more, alone:\n%s\n\n' "$count" "$failed"
# The folders given among the arguments are those to collect from; of these only what had failed.
"$PYTHON" -m pytest "$@" -n 0 --last-failed --last-failed-no-failures none || exit $?
printf '\nFLAKY, failed once and passed alone:\n%s\n' "$failed"
