#!/bin/sh
# Makes .venv complete: an environment with the pinned packages and widelimit itself, editable.
# Needs one Python 3.11 or 3.12; pip, ensurepip and venv may all be missing (Debian ships each apart).
set -eu
cd "$(dirname "$0")/.."
own=.venv/bin/python

usable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
    for python in ${PYTHON:-python3 python python3.12 python3.11}; do
        if usable "$python"; then command -v "$python"; return; fi
    done
    echo "widelimit needs Python 3.11 or 3.12 and found neither among: ${PYTHON:-python3 python python3.12 python3.11}." \
        "Install one, or name it: make install PYTHON=/path/to/python3.12" >&2
    return 1
}

# Without the venv module: a symbolic link and pyvenv.cfg are all that makes an environment.
make_environment() {
    "$1" -m venv --without-pip .venv 2>/dev/null && return
    mkdir -p .venv/bin ".venv/lib/python$2/site-packages"
    ln -sf "$1" "$own"
    printf 'home = %s\ninclude-system-site-packages = false\n' "$(dirname "$1")" > .venv/pyvenv.cfg
}

# pip from the first place that has it: the standard library, another interpreter's pip, Debian's wheel, that wheel
# fetched without installing it.
bootstrap_pip() {
    "$own" -m ensurepip >/dev/null 2>&1 && return
    for python in "$1" python3 python python3.12 python3.11; do
        "$python" -m pip --python "$own" install --quiet pip 2>/dev/null && return
    done
    mkdir -p .venv/bootstrap
    (cd .venv/bootstrap && apt-get download python3-pip-whl && dpkg-deb -x python3-pip-whl_*.deb .) >/dev/null 2>&1 || true
    for wheel in .venv/bootstrap/usr/share/python-wheels/pip-*.whl /usr/share/python-wheels/pip-*.whl; do
        [ -e "$wheel" ] && "$own" "$wheel/pip" install --quiet pip && return
    done
    echo "$1 has no pip, and neither ensurepip, another Python nor the package python3-pip-whl could give it one." \
        "Install pip for it (on Debian: apt-get install python3-venv) and run make install again." >&2
    return 1
}

if [ -x "$own" ] && ! usable "$own"; then
    echo ".venv exists but is not of Python 3.11 or 3.12; remove it and run make install again." >&2
    exit 1
fi
if [ ! -x "$own" ]; then
    python=$(find_python)
    make_environment "$python" "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
fi
"$own" -m pip --version >/dev/null 2>&1 || bootstrap_pip "$(readlink -f "$own")"

export PIP_DISABLE_PIP_VERSION_CHECK=1
"$own" -m pip install --quiet --constraint constraints.txt pip setuptools
"$own" -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[experiments,kernels,dev]'
# Apart and without its dependencies: it declares TensorFlow, which only a module we never load uses.
"$own" -m pip install --quiet --constraint constraints.txt --no-deps neural-tangents
echo "widelimit is installed in .venv ($("$own" --version))."
