#!/usr/bin/env bash
# Renews the lock files in requirements/: resolves requirements.txt in fresh environments and writes down what pip chose (`make lock`).
#
# Each environment gives two files: NAME.lock, what requirements.txt asks for, and test-NAME.lock, what the test tools add to it. A file is replaced only
# once its environment is whole and consistent (`pip check`), so an interrupted run changes nothing or one pair.
set -euo pipefail
cd "$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
source scripts/interpreters.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# freeze PYTHON: exact versions of all that is installed, pip included (an old pip may not read today's wheels); setuptools is the one that `venv` put there.
freeze() {
    "$1" -m pip freeze --all --disable-pip-version-check | grep -v '^setuptools==' | LC_ALL=C sort -f
}

# lock NAME VERSION PATTERN TOOLS...: make requirements/NAME.lock from the lines of requirements.txt that PATTERN selects (grep options), and from
# requirements/$beside.txt where that is set.
lock() {
    local name=$1 version=$2 select=$3 beside=${beside-} found python
    shift 3
    if ! found=$(find_version "$version"); then
        echo "$name: left as it is, there is no Python $version on this machine"
        return 0
    fi
    echo "$name: resolving on Python $(version_of "$found")"
    "$(path_of "$found")" -m venv "$work/$name"
    python=$work/$name/bin/python
    grep -v '^#' requirements.txt | grep $select '^apache-airflow' >"$work/$name.txt"
    [ -z "$beside" ] || cat "requirements/$beside.txt" >>"$work/$name.txt"
    "$python" -m pip install -q --upgrade pip
    "$python" -m pip install -q -r "$work/$name.txt"
    "$python" -m pip check
    freeze "$python" >"$work/$name.lock"
    "$python" -m pip install -q -c "$work/$name.lock" "$@"
    "$python" -m pip check
    freeze "$python" >"$work/$name.all"
    write "$name" "$version" "$work/$name.lock"
    write "test-$name" "$version" <(grep -vxF -f "$work/$name.lock" "$work/$name.all")
    rm -rf "${work:?}/$name"
}

# write NAME VERSION LIST: replace requirements/NAME.lock atomically.
write() {
    local target=requirements/$1.lock
    {
        echo "# Python $2, from requirements.txt and requirements/*.txt by scripts/lock.sh (make lock). Do not edit."
        cat "$3"
    } >"$target.new"
    mv -f "$target.new" "$target"
    echo "$target: $(grep -c == "$target") packages"
}

lock airflow-py311 3.11 -e -r requirements/test.txt -r requirements/test-airflow.txt -r requirements/lint.txt
beside=deploy lock deploy-py311 3.11 -e -r requirements/test.txt -r requirements/test-deploy.txt
lock train-py311 3.11 -ve -r requirements/test.txt
lock train-py37 3.7 -ve -r requirements/test.txt
