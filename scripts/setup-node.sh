#!/usr/bin/env bash
# Installs the Node clients that tests/clients runs against the servers, as its lock file says.
set -euo pipefail
cd "$(dirname "$0")/../tests/clients"

if ! command -v npm >/dev/null; then
  echo "setup: no npm here, so the tests with Node clients will be skipped"
  exit 0
fi
echo "setup: installing the Node clients"
if [ -e package-lock.json ]; then
  npm ci --silent --no-audit --no-fund
else
  npm install --silent --no-audit --no-fund --no-package-lock
fi
