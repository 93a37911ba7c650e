# Builds one virtual environment from its lock file. Sourced by setup.sh, which sets MTC_HOME and is in that folder.
#
# An environment is whole when its stamp is there and says what is wanted now; the stamp is written last, so that an interrupted build is started over.
# The stamp holds the project's path too: scripts in a virtual environment begin with an absolute path, a moved project needs new ones.

LOG_DIR=.setup

# stamp FOUND FILE...: what an environment depends on.
stamp() {
    printf 'project %s\npython %s\n' "$MTC_HOME" "$1"
    shift
    cat -- "$@" | cksum
}

# interpreter_of DIR: the interpreter that a whole environment was made on, as in interpreters.sh, while it still runs.
interpreter_of() {
    "$1/bin/python" -c '' 2>/dev/null && sed -n 's/^python //p' "$1/.mtc-stamp" 2>/dev/null | grep .
}

# is_current DIR WANTED NAME: whether the stamp NAME in DIR is the WANTED one and the interpreter still runs.
is_current() {
    [ -f "$1/$3" ] && [ "$(cat -- "$1/$3")" = "$2" ] && "$1/bin/python" -c '' 2>/dev/null
}

# run LABEL COMMAND...: run a step with its output in $log, and print how long it took.
run() {
    local label=$1 started=$SECONDS status
    shift
    printf '  %-58s ' "$label"
    if "$@" >>"$log" 2>&1 </dev/null; then
        printf '%4d s\n' $((SECONDS - started))
    else
        status=$?
        printf 'failed after %d s\n' $((SECONDS - started))
        return $status
    fi
}

# build_venv DIR FOUND LOCK SELECT MEGABYTES [MORE]: make DIR on the interpreter FOUND; SELECT is the grep option that picks its lines of
# requirements.txt, MORE a file with further ones.
# Returns 1, with the reason in $reason, where a package cannot be had for this interpreter; any other failure ends the set-up.
build_venv() {
    local dir=$1 found=$2 lock=$3 select=$4 log=$LOG_DIR/${1#.}.log wanted exact=yes
    local python=$dir/bin/python
    local sources=("$lock")
    case $lock in *-py"$(minor_of "$found" | tr -d .)".lock) ;; *) exact=no && sources+=(requirements.txt) ;; esac
    wanted=$(stamp "$found" "${sources[@]}")
    is_current "$dir" "$wanted" .mtc-stamp && return 0

    need_space "$5" "$dir"
    : >"$log"
    rm -rf "./$dir"
    run "$dir: Python $(version_of "$found")" "$(path_of "$found")" -m venv "$dir" || fail_install "$dir" "$log"
    run "$dir: pip" "$python" -m pip install --disable-pip-version-check "$(grep '^pip==' "$lock")" || fail_install "$dir" "$log"
    if ! run "$dir: $(grep -c == "$lock") packages of $lock" "$python" -m pip install -r "$lock"; then
        reason=$(missing_package "$log")
        if [ "$exact" = no ] && [ -n "$reason" ]; then
            echo "  $lock was made for another Python and does not fit $(minor_of "$found") ($reason): resolving requirements.txt instead"
            grep -v '^#' requirements.txt | grep "$select" '^apache-airflow' | cat - ${6+"$6"} >"$LOG_DIR/${dir#.}.txt"
            : >"$log"
            run "$dir: requirements.txt" "$python" -m pip install -r "$LOG_DIR/${dir#.}.txt" || fail_install "$dir" "$log"
        elif [ -n "$reason" ]; then
            return 1
        else
            fail_install "$dir" "$log"
        fi
    fi
    if [ "$select" = -v ]; then
        replace_opencv "$dir"
        run "$dir: does it work?" "$python" scripts/check_training.py || fail_check "$dir" "$log" $?
    else
        run "$dir: does it work?" env AIRFLOW_HOME="$MTC_HOME/.airflow" "$dir/bin/airflow" version || fail_check "$dir" "$log" $?
    fi
    tail -n 1 "$log" >"$dir/.mtc-versions"
    printf '%s\n' "$wanted" >"$dir/.mtc-stamp"
}

# add_test_tools DIR FOUND LOCK: install what the tests need into an environment, changing nothing that is there.
add_test_tools() {
    local dir=$1 found=$2 lock=$3 log=$LOG_DIR/${1#.}-tests.log wanted
    wanted=$(stamp "$found" "$lock" "$dir/.mtc-stamp")
    is_current "$dir" "$wanted" .mtc-tests && return 0
    : >"$log"
    "$dir/bin/python" -m pip freeze --disable-pip-version-check >"$LOG_DIR/${dir#.}.freeze" 2>>"$log"
    if ! run "$dir: test tools" "$dir/bin/python" -m pip install -c "$LOG_DIR/${dir#.}.freeze" -r "$lock"; then
        [ -n "$(missing_package "$log")" ] || fail_install "$dir" "$log"
        local tools=(-r requirements/test.txt)
        [ "$dir" = .venv ] && tools+=(-r requirements/test-airflow.txt -r requirements/lint.txt)
        [ "$dir" = .venv-deploy ] && tools+=(-r requirements/test-deploy.txt)
        run "$dir: test tools, newest versions" "$dir/bin/python" -m pip install -c "$LOG_DIR/${dir#.}.freeze" "${tools[@]}" || fail_install "$dir" "$log"
    fi
    printf '%s\n' "$wanted" >"$dir/.mtc-tests"
}

# OpenCV's usual build needs libGL and GLib from the system, which servers and containers often lack; the headless build of the same version does without.
replace_opencv() {
    local dir=$1 python=$1/bin/python problem version
    problem=$("$python" -c 'import cv2' 2>&1 </dev/null) && return 0
    problem=$(printf '%s\n' "$problem" | grep -oE 'lib[A-Za-z0-9_-]+\.so[.0-9]*' | head -n 1)
    [ -n "$problem" ] || return 0 # another trouble: the check that follows reports it
    version=$("$python" -m pip list --format=freeze --disable-pip-version-check 2>/dev/null | sed -n 's/^opencv-python==//p')
    echo "  this system has no $problem: taking opencv-python-headless $version in place of opencv-python"
    "$python" -m pip uninstall -y opencv-python >>"$log" 2>&1
    run "$dir: opencv-python-headless" "$python" -m pip install "opencv-python-headless==$version" || fail_install "$dir" "$log"
}

# The package that pip found no version of, from its log, or nothing: then the trouble is another one, such as no network.
missing_package() {
    unreachable "$1" && return 0
    sed -n 's/^ERROR: No matching distribution found for \([^ ;]*\).*/no \1 for this Python and processor/p; s/^ERROR: \(Cannot install .*\) because .*/\1/p' "$1" | head -n 1
}

unreachable() {
    grep -q -i -E 'NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|Network is unreachable|name resolution|ProxyError|SSLError|CERTIFICATE_VERIFY_FAILED|ConnectionResetError|not a trusted or secure host' "$1"
}

need_space() {
    local free
    free=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1024))
    [ "$free" -ge "$1" ] || fail "$2 needs about $1 MB and $MTC_HOME has $free MB free: make room and run make setup again"
}

fail_install() {
    local last
    last=$(grep -E '^ *ERROR' "$2" | tail -n 1)
    [ -n "$last" ] || last=$(grep . "$2" | tail -n 1)
    if grep -q 'No space left on device' "$2"; then
        fail "$1 could not be made: no space left on the disk (project: $(free_in .), temporary folder ${TMPDIR:-/tmp}: $(free_in "${TMPDIR:-/tmp}")); make room, or set TMPDIR to a folder on a larger disk"
    elif unreachable "$2"; then
        last=$(sed -n "s/.*after connection broken by '\(.*\)': .*/\1/p" "$2" | tail -n 1)
        fail "$1 could not be made: the package index cannot be reached (${last:-$(grep -m 1 WARNING "$2")}); check the network, or name your mirror with PIP_INDEX_URL; all of pip's output: $2"
    fi
    fail "$1 could not be made ($last); all output: $2"
}

fail_check() {
    if [ "$3" = 132 ]; then # SIGILL
        fail "$1 was made but TensorFlow does not run: this processor lacks AVX, which its packages are built with"
    fi
    fail "$1 was made but does not work: $(tail -n 1 "$2"); all output: $2"
}

free_in() { df -Pk "$1" | awk 'NR == 2 { printf "%d MB free", $4 / 1024 }'; }

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}
