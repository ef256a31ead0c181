#!/usr/bin/env bash
# Installs the Debian packages of the list that are missing, or names them to whoever may.
# Usage: system.sh LIST
set -euo pipefail
list=$1
missing=()
# venv is asked of Python itself: pyenv's and others' have it without a package of this name.
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
if command -v dpkg-query >/dev/null; then
  while IFS=: read -r package program; do
    [ -z "$program" ] || [ ! -x "/usr/bin/$program" ] || continue
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$list")
fi
[ "${#missing[@]}" -gt 0 ] || exit 0
if [ -n "${KIBO_NO_APT:-}" ] || [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  printf 'setup: these Debian packages are missing: %s\n' "${missing[*]}"
  printf 'setup: to install them: sudo apt-get install %s\n' "${missing[*]}"
  printf 'setup: until then, what needs them is skipped or refused, with the reason\n'
  exit 0
fi
printf 'setup: installing Debian packages: %s\n' "${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# --no-install-recommends: the list names what is used. Services of the packages must not start by themselves.
policy=/usr/sbin/policy-rc.d
made_policy=
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  made_policy=1
fi
trap '[ -z "$made_policy" ] || rm -f "$policy"' EXIT
# Unbuffered, so that each package is told as it comes.
LC_ALL=C apt-get install -y --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" |
  sed -unE 's/^([0-9]+) upgraded, ([0-9]+) newly installed.*/setup:   \2 packages with what they need/p
    s/^Get:[0-9]+ [^ ]+ [^ ]+ [^ ]+ ([^ ]+) .*(\[[^]]+\])$/setup:   fetching \1 \2/p
    s/^Setting up ([^ ]+).*/setup:   installed \1/p'
