#!/bin/sh
# Prints the Python that .venv is made with: the one given, else the first suitable one on PATH.
# TensorFlow has builds for 3.10 to 3.13 only, hence the upper end.
given=$1
check='
import sys, ensurepip, venv
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'

for python in ${given:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
    if "$python" -c "$check" >/dev/null 2>&1; then
        echo "$python"
        exit 0
    fi
done

python=${given:-python3}
if version=$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null); then
    if "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; then
        reason="$python is $version, but has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv)"
    else
        reason="$python is $version: install one of Python 3.10 to 3.13"
    fi
else
    reason="there is no $python: install one of Python 3.10 to 3.13"
fi
echo "oomcast needs Python 3.10 to 3.13 with venv; $reason, or name another with make PYTHON=/path/to/python" >&2
exit 1
