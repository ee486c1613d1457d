#!/usr/bin/env bash
# Installs the project, pinned by its constraints.txt, into .venv beside it:
#   install.sh EXTRA[,EXTRA...]
# Again is nothing, if the same extras are there.
set -euo pipefail
cd "$(dirname "$0")/.."

extras=$1
done_mark=.venv/installed-$extras
exec 9> .installing
flock 9 # jobs may share the folder
if [ -e "$done_mark" ]; then exit 0; fi

python=
for candidate in python3.13 python3.12 python3.11 python3; do
  if command -v "$candidate" > /dev/null &&
    "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null
  then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then # a Cloud TPU's Ubuntu 22.04 has 3.10
  sudo apt-get update -q
  sudo apt-get install -qy python3.11 python3.11-venv
  python=python3.11
fi
"$python" -m venv .venv
.venv/bin/pip install --quiet -c constraints.txt -e ".[$extras]"
# It isolates the programs that models write; without it tasks of code, and no
# others, are refused.
if ! command -v bwrap > /dev/null && command -v apt-get > /dev/null; then
  sudo -n apt-get install -qy bubblewrap > /dev/null 2>&1 ||
    echo "bubblewrap, which tasks of code need, could not be installed" >&2
fi
touch "$done_mark"
