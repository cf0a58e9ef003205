#!/usr/bin/env bash
# Makes .venv and installs PocketKV into it, with its tools, in the versions of constraints.txt.
#
# Needs python3 (or $PYTHON) 3.11 or newer. On Debian, `ensurepip` is a package of its own: where it
# is missing, the pip of that Python is used, and where that is missing too, apt.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=.venv

fail() {
  echo "setup: $*" >&2
  exit 2
}

can_ensurepip() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
has_pip() { "$python" -m pip --version >/dev/null 2>&1; }

command -v "$python" >/dev/null || fail "needs Python 3.11 or newer; name yours with PYTHON=..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "needs Python 3.11 or newer, and $python is older; name another with PYTHON=..."

if ! can_ensurepip && ! has_pip; then
  scripts/install-debian.sh python3-venv
  can_ensurepip || fail "$python has neither ensurepip nor pip; name another with PYTHON=..."
fi

# An environment knows its own path, so one that was copied or moved is made anew.
place=$venv/.place
here=$(pwd -P)
if [ "$(cat "$place" 2>/dev/null)" != "$here" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
  echo "setup: making $venv"
  rm -rf "$venv"
  if can_ensurepip; then
    "$python" -m venv "$venv"
  else
    "$python" -m venv --without-pip "$venv"
  fi
  echo "$here" >"$place"
fi

if [ -x "$venv/bin/pip" ]; then
  pip=("$venv/bin/python" -m pip)
else
  pip=("$python" -m pip --python "$venv/bin/python")
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1
"${pip[@]}" install --quiet -c constraints.txt uv

# uv does not read pip's settings. A machine that reaches the package index through a mirror, or
# through a certificate of its own, has told only pip.
pip_setting() { "${pip[@]}" config get "global.$1" 2>/dev/null || true; }
index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(pip_setting index-url)}}
certificates=${SSL_CERT_FILE:-${PIP_CERT:-$(pip_setting cert)}}
[ -z "$index" ] || export UV_DEFAULT_INDEX=$index
[ -z "$certificates" ] || export SSL_CERT_FILE=$certificates

# "compat" puts a path file in the environment. The default is an import hook that costs every
# Python process 15 ms at its start, and the servers and the demo's workers are many processes.
echo "setup: installing the packages of constraints.txt"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
  --constraint constraints.txt --build-constraint constraints.txt \
  --config-settings editable_mode=compat --editable '.[dev,s3,kubernetes]'
