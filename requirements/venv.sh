#!/usr/bin/env bash
# Makes the virtual environment from the hash-pinned list, with uv, which pip brings (pinned too) when it is missing.
# Usage: venv.sh DIRECTORY LOCK
set -euo pipefail
venv=$1 lock=$2
python3 - <<'PY'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"setup: Kibo needs Python 3.11 or newer; python3 here is {sys.version.split()[0]}")
PY
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Debian's Python has its pip in a package of its own, python3-venv. Who may not install that can still fetch the wheel
# that it has; apt checks it as it does whatever it installs.
find_pip() {
  if ! compgen -G '/usr/share/python-wheels/pip-*.whl' && command -v apt-get >/dev/null; then
    (cd "$work" && apt-get download -qq python3-pip-whl && dpkg -x ./*.deb .) >&2 || return 1
    compgen -G "$work/usr/share/python-wheels/pip-*.whl"
  fi
}
if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
  echo "setup: making $venv with $(python3 --version)"
  if python3 -c 'import ensurepip' 2>/dev/null; then
    python3 -m venv "$venv"
  elif pip=$(find_pip) && [ -n "$pip" ]; then
    echo "setup: there is no python3-venv; pip comes from ${pip##*/}"
    python3 -m venv --without-pip "$venv"
    "$venv/bin/python" "$pip/pip" install -qq --disable-pip-version-check --no-index --no-deps "$pip"
  else
    echo "setup: there is no pip for $venv: sudo apt-get install python3-venv"
    exit 1
  fi
fi
pins=$(grep -cE '^[a-z0-9].*==' "$lock")
uv=$venv/bin/uv
if [ ! -x "$uv" ]; then
  pin=$work/uv.txt
  awk '/^uv==/{p=1; print; next} /^[^[:space:]#]/{p=0} p' "$lock" >"$pin"
  echo "setup: bringing uv ($(sed -nE 's/^uv==([^ ]+).*/\1/p' "$pin"))"
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes -r "$pin"
fi
# uv reads none of pip's settings; a machine that reaches its packages through a mirror tells pip of it.
index=$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null || true)
[ -z "${UV_DEFAULT_INDEX:-}" ] && [ -n "${PIP_INDEX_URL:-$index}" ] && export UV_DEFAULT_INDEX="${PIP_INDEX_URL:-$index}"
# Nor does it trust by itself whom the machine trusts, as pip does: a network with an authority of its own needs that.
[ ! -s /etc/ssl/certs/ca-certificates.crt ] || export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"
export VIRTUAL_ENV=$PWD/$venv
echo "setup: installing $pins pinned packages from $lock"
"$uv" pip install --compile-bytecode --require-hashes -r "$lock" # with a bar on a terminal, and the names
"$uv" pip install --quiet --no-deps --no-build-isolation --editable .
echo "setup: ready ($venv)"
