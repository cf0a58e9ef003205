#!/bin/sh
# Builds the wheel, with its hot path compiled, and installs it and all that it needs into a folder:
#
#     dockerfiles/install.sh SOURCE TARGET
#
# SOURCE is a checkout. TARGET becomes a virtual environment of $PYTHON (python3 if not set) that can be
# copied to wherever that Python is. The Dockerfile runs this, and so does a test.
set -eu

source=$1
target=$2
python=${PYTHON:-python3}
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT

# What builds is pinned like what is installed. Which of the two variables is heeded depends on pip.
export PIP_CONSTRAINT="$source/constraints.txt" PIP_BUILD_CONSTRAINT="$source/constraints.txt"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Without symbols for debuggers, an extension module takes a fifth of the room.
POCKETKV_COMPILE=require CFLAGS='-O2 -g0' LDFLAGS=-s \
  "$python" -m pip wheel --quiet --no-deps --wheel-dir "$wheels" "$source"
wheel=$(echo "$wheels"/pocketkv-*.whl)

"$python" -m venv --without-pip "$target"
"$python" -m pip --python "$target/bin/python" install --quiet --no-compile \
  --only-binary :all: "$wheel[s3,kubernetes]"

# Parts of packages that nothing here uses, and that would be a third of the image: the client of
# Kubernetes for asyncio, and descriptions of AWS's services other than S3 and those that sign in to it.
packages=$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$packages/kubernetes/aio"
for service in "$packages"/botocore/data/*/; do
  case $(basename "$service") in
    s3 | signin | sso | sso-oidc | sts) ;;
    *) rm -rf "$service" ;;
  esac
done

# Whoever runs it may not write here, and would compile at each start.
"$target/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$target/lib"
