# Finds the Python interpreters of this machine, and the servers that tests need. Sourced by setup.sh, lock.sh, test.sh and .ci/run.
#
# An interpreter counts when it really runs (a pyenv shim may exist and only print an error) and can make virtual environments. Every function prints
# "path|minor|full version", such as "/usr/bin/python3.11|3.11|3.11.2", and returns 1 where there is nothing.

# The interpreter behind a name or path. A virtual environment's interpreter stands for the one it was made with, so that .venv, first on
# PATH after `source scripts/env.sh`, is not rebuilt out of itself.
probe() {
    "$1" -c '
import os, sys
path, minor = sys.executable, "%d.%d" % sys.version_info[:2]
if sys.prefix != sys.base_prefix:
    path = os.path.join(sys.base_prefix, "bin", "python" + minor)
print("|".join([path, minor, "%d.%d.%d" % sys.version_info[:3]]))' 2>/dev/null </dev/null
}

can_make_venv() {
    "$1" -c 'import ensurepip, venv; ensurepip.version()' >/dev/null 2>/dev/null </dev/null
}

# Every place where an interpreter of a version such as 3.7 may be, best first.
places_of() {
    local version=$1 root
    command -v "python$version"
    for root in "$(pyenv root 2>/dev/null)" "$HOME/.pyenv"; do
        [ -n "$root" ] && printf '%s\n' "$root/versions/$version".*/bin/python"$version" | sort -rV
    done
    # Where Ascend's installation guide and other builds from source put theirs.
    printf '%s\n' "/usr/local/python$version"*/bin/python"$version" /usr/local/bin/python"$version" /usr/bin/python"$version"
}

# The first of the places of a version that runs and can make environments.
find_version() {
    local place found
    while IFS= read -r place; do
        found=$(probe "$place") && [ "$(minor_of "$found")" = "$1" ] && can_make_venv "$(path_of "$found")" && printf '%s\n' "$found" && return 0
    done <<<"$(places_of "$1")"
    return 1
}

path_of() { printf '%s\n' "${1%%|*}"; }
minor_of() { local rest=${1#*|}; printf '%s\n' "${rest%|*}"; }
version_of() { printf '%s\n' "${1##*|}"; }

# Whether Airflow 3.3 runs on a minor version such as 3.11.
suits_airflow() {
    case $1 in 3.1[0-4]) return 0 ;; *) return 1 ;; esac
}

# The interpreter for Airflow: 3.11 first, for which the lock files were made. On failure prints one sentence that says what is missing.
find_airflow_python() {
    local version found
    if [ -n "${MTC_PYTHON_AIRFLOW:-}" ]; then
        found=$(probe "$MTC_PYTHON_AIRFLOW") || { echo "MTC_PYTHON_AIRFLOW=$MTC_PYTHON_AIRFLOW does not run: set it to a Python 3.10 to 3.14, or unset it"; return 1; }
        suits_airflow "$(minor_of "$found")" ||
            { echo "MTC_PYTHON_AIRFLOW=$MTC_PYTHON_AIRFLOW is Python $(version_of "$found"): Airflow 3.3 needs Python 3.10 to 3.14"; return 1; }
        can_make_venv "$(path_of "$found")" || { without_venv "$found"; return 1; }
        printf '%s\n' "$found"
        return 0
    fi
    for version in 3.11 3.12 3.13 3.10 3.14; do
        find_version "$version" && return 0
    done
    # None is usable: say why of the best one.
    for version in 3.11 3.12 3.13 3.10 3.14; do
        while IFS= read -r place; do
            found=$(probe "$place") && { without_venv "$found"; return 1; }
        done <<<"$(places_of "$version")"
    done
    found=$(probe python3) || found="||none"
    echo "no Python 3.10 or newer was found (python3: $(version_of "$found")): install one (on Debian: apt-get install python3 python3-venv) or set MTC_PYTHON_AIRFLOW=/path/to/python3.11"
    return 1
}

without_venv() {
    local minor
    minor=$(minor_of "$1")
    echo "Python $(version_of "$1") at $(path_of "$1") cannot make virtual environments (module venv or ensurepip is missing): apt-get install python$minor-venv, or install Python with pyenv"
}

# servers_missing: print which of the servers that test/deploy starts are not on this machine; fails where all are.
servers_missing() {
    local missing=()
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing+=(postgresql)
    command -v redis-server >/dev/null || missing+=(redis-server)
    [ ${#missing[@]} -gt 0 ] && echo "${missing[*]}"
}
