# One training as the reference's test scripts run it, with its options, files and log lines; see docs/scripts.md. Sourced by
# train_{full,performance}_{1,8}p.sh, which set KIND (acc, perf), RANKS and SCRIPT and hand over their arguments.
#
# Nothing is written outside test/output (MTC_OUTPUT) and no source file is changed, so runs on different devices go side by side.
# shellcheck shell=bash
set -euo pipefail

usage() {
    cat <<EOF
usage: bash $SCRIPT --data_path=DIR [options]

  --data_path=DIR         DIR/COCO_data/{train2017,mask2017,COCO.json} and DIR/Final_qual_domeCOCO_chest_noPAF2D/, or a data.root of ours
  --precision_mode=MODE   how an NPU computes (npu.precision_mode); elsewhere the nearest train.precision. Default: the preset's
  --over_dump=True        statistics of every layer at a step whose numbers are none, to output/overflow_dump
  --data_dump_flag=True   tensors of single steps, to output/data_dump
  --data_dump_step=STEPS  which ones, counted from 0: 0|5|10-20. Default: 0
  --profiling=True        traces of ten steps and where their time goes, to output/profiling
  --steps=N               make only N steps
EOF
    [ "$RANKS" = 1 ] || echo "  --rank_table=FILE       HCCL's table of devices. Default: RANK_TABLE_FILE"
    cat <<EOF
  --help, -h              this text (exit code 1, as ever)

Values may follow "=" or stand alone. Environment: ASCEND_DEVICE_ID (default 0), MTC_PYTHON, MTC_OUTPUT (instead of test/output), MTC_SET (for trials:
"model.width=0.05 train.device=cpu", as --set of tasks.train). What the run does: docs/scripts.md.
EOF
}

refuse() {
    echo "[Error] $*"
    exit 1
}

# truth NAME VALUE: whether an option is on
truth() {
    case ${2,,} in
        true | 1 | yes | on) return 0 ;;
        false | 0 | no | off) return 1 ;;
        *) refuse "para \"$1\" must be True or False, not \"$2\"" ;;
    esac
}

# ---- arguments
for argument in "$@"; do
    if [ "$argument" = --help ] || [ "$argument" = -h ]; then
        usage
        exit 1
    fi
done
data_path='' precision_mode='' over_dump=False data_dump_flag=False data_dump_step=0 profiling=False steps='' rank_table=${RANK_TABLE_FILE:-}
while [ $# -gt 0 ]; do
    name=${1%%=*}
    case $name in
        --data_path | --precision_mode | --over_dump | --data_dump_flag | --data_dump_step | --profiling | --steps | --rank_table) ;;
        *) refuse "unknown option \"$1\"; bash $SCRIPT --help lists them" ;;
    esac
    [ "$name" != --rank_table ] || [ "$RANKS" != 1 ] || refuse "para \"rank_table\" is for several devices: take the 8p script"
    if [[ $1 == *=* ]]; then
        value=${1#*=}
    elif [ $# -gt 1 ] && [[ $2 != --* ]]; then
        value=$2
        shift
    else
        value=''
    fi
    [ -n "$value" ] || refuse "para \"${name#--}\" must be confing: $name=VALUE"
    printf -v "${name#--}" %s "$value"
    shift
done
[ -n "$data_path" ] || refuse 'para "data_path" must be confing'
[ -z "$steps" ] || [[ $steps =~ ^[1-9][0-9]{0,6}$ ]] || refuse "para \"steps\" must be a number above 0, not \"$steps\""
truth over_dump "$over_dump" && over_dump=True || over_dump=False
truth data_dump_flag "$data_dump_flag" && data_dump_flag=True || data_dump_flag=False
truth profiling "$profiling" && profiling=True || profiling=False
[ "$over_dump$data_dump_flag" != TrueTrue ] || refuse 'para "over_dump" and "data_dump_flag" exclude each other, as on the NPU: one run each'

# ---- places; paths of the caller count from where the caller is
absolute() { case $1 in /*) printf '%s\n' "$1" ;; *) printf '%s\n' "$PWD/$1" ;; esac; }
data_path=$(absolute "${data_path%/}")
output=${MTC_OUTPUT:+$(absolute "${MTC_OUTPUT%/}")}
[ -z "$rank_table" ] || rank_table=$(absolute "$rank_table")
# shellcheck source=/dev/null
source "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/env.sh"
output=${output:-$MTC_HOME/test/output}
cd -- "$MTC_HOME"
command -v "$MTC_PYTHON" >/dev/null || refuse "there is no training interpreter $MTC_PYTHON: run make setup, or set MTC_PYTHON"

# ---- the environment of Ascend's scripts
[ "$RANKS" = 1 ] || RANKS=${RANK_SIZE:-$RANKS}
[[ $RANKS =~ ^[1-9][0-9]?$ ]] || refuse "RANK_SIZE=$RANKS is no number of devices"
[ -n "${ASCEND_DEVICE_ID:-}" ] || echo "ASCEND_DEVICE_ID is not set: device 0"
export ASCEND_DEVICE_ID=${ASCEND_DEVICE_ID:-0}
[[ $ASCEND_DEVICE_ID =~ ^[0-9]{1,3}$ ]] || refuse "ASCEND_DEVICE_ID=$ASCEND_DEVICE_ID is no number of a device"
export RANK_SIZE=$RANKS JOB_ID=10087
if [ "$RANKS" = 1 ]; then
    export RANK_ID=0 NPU_CALCULATE_DEVICE=$ASCEND_DEVICE_ID
elif [ -n "$rank_table" ]; then
    [ -f "$rank_table" ] || refuse "there is no rank table $rank_table"
    export RANK_TABLE_FILE=$rank_table
fi

# ---- data, in either layout
if [ -f "$data_path/COCO_data/COCO.json" ]; then
    root=$data_path/COCO_data
elif [ -f "$data_path/COCO.json" ]; then
    root=$data_path
else
    refuse "neither $data_path/COCO_data/COCO.json nor $data_path/COCO.json is there: give --data_path a data.root of tasks.preprocess, or the reference's tree"
fi
overrides=("data.root=$root")
pretrained=$data_path/Final_qual_domeCOCO_chest_noPAF2D
first=390000
if [ -f "$pretrained/model-$first.index" ]; then
    overrides+=("snapshot.uri=$pretrained/model-$first")
elif [ -d "$pretrained" ]; then
    overrides+=("snapshot.uri=$pretrained")
elif [[ " ${MTC_SET:-}" != *" snapshot.uri="* ]] && [ -z "$(find -L snapshots -name '*.index' -print -quit)" ]; then
    refuse "there is no snapshot to start from: put one into $pretrained or $MTC_HOME/snapshots, or try without: MTC_SET=snapshot.uri=none"
fi

# ---- devices of this run: nobody else's until it has ended, however it ends
mkdir -p -- "$output"
devices=()
for ((i = 0; i < RANKS; i++)); do
    device=$((10#$ASCEND_DEVICE_ID + i))
    devices+=("$device")
    exec {lock}<>"$output/.$device.lock" # the training inherits it, and holds it where this script was killed
    if ! flock -n "$lock"; then
        refuse "device $device is in use by $(head -n 1 <&"$lock"): wait for it or stop it, or take another ASCEND_DEVICE_ID or MTC_OUTPUT"
    fi
    truncate -s 0 "$output/.$device.lock"
    echo "$SCRIPT, process $$, since $(date '+%F %T')" >&"$lock"
done
here=$output/$ASCEND_DEVICE_ID
if [ -e "$here" ]; then # the reference deletes it
    rm -rf -- "$here.before"
    mv -- "$here" "$here.before"
fi
run=$here/run
mkdir -p -- "$here/ckpt"

# ---- what is trained
if [ "$KIND" = perf ]; then
    preset=ascend_perf count=${steps:-99}
else
    preset=ascend_full count=${steps:-9999}
fi
last=$((first + count))
# Checkpoints go to ckpt/ while training goes on; the run directory keeps the newest.
overrides+=("train.steps=$last" "storage.uri=$here/ckpt" checkpoint.keep_last=1)
if [ -n "$precision_mode" ]; then
    overrides+=("npu.precision_mode=$precision_mode")
    case $precision_mode in # the same elsewhere, as near as it comes, and whether the loss is scaled: the table of docs/scripts.md
        *mix*bf* | *to_bf16) overrides+=(train.precision=mixed_bf16) ;;
        *fp16* | *mix*) overrides+=(train.precision=mixed_fp16) ;;
        *) overrides+=(train.precision=fp32) ;;
    esac
fi

# folder NAME: an empty output/NAME/<device>
folder() {
    rm -rf -- "${output:?}/$1/$ASCEND_DEVICE_ID"
    mkdir -p -- "$output/$1/$ASCEND_DEVICE_ID"
}
if [ $over_dump = True ]; then
    folder overflow_dump
    overrides+=(dump.overflow=true "dump.path=$output/overflow_dump/$ASCEND_DEVICE_ID")
fi
if [ $data_dump_flag = True ]; then
    folder data_dump
    overrides+=("dump.steps=$data_dump_step" "dump.path=$output/data_dump/$ASCEND_DEVICE_ID")
fi
if [ $profiling = True ]; then
    folder profiling
    if [ "$count" -gt 20 ]; then # the first steps are slow in their own way
        overrides+=("train.profile=$((first + 11)):$((first + 21))")
    else
        overrides+=("train.profile=$((first + 1)):$((last + 1))")
    fi
    rmdir -- "$output/profiling/$ASCEND_DEVICE_ID"
    ln -s -- "../$ASCEND_DEVICE_ID/run/profile" "$output/profiling/$ASCEND_DEVICE_ID"
fi
batch_size=1 # of one device
read -r -a trial <<<"${MTC_SET:-}"
for word in ${trial[@]+"${trial[@]}"}; do
    [[ $word != train.batch_size=* ]] || batch_size=${word#*=}
    overrides+=("$word")
done
[[ $batch_size =~ ^[1-9][0-9]*$ ]] || refuse "MTC_SET: train.batch_size=$batch_size is no number above 0"
overrides+=("train.batch_size=$((batch_size * RANKS))") # all devices share it
words=()
for word in "${overrides[@]}"; do
    words+=(--set "$word")
done
command=("$MTC_PYTHON" -m tasks.train)
[ "$RANKS" = 1 ] || command=("$MTC_PYTHON" -m tasks.launch --ranks "$RANKS" --device-ids "$(IFS=,; echo "${devices[*]}")" --)
command+=(--config "$preset" --run-dir "$run" "${words[@]}")

# ---- train
echo "Device ID: $ASCEND_DEVICE_ID"
log=$here/train_$ASCEND_DEVICE_ID.log
started=$(date +%s)
"${command[@]}" >"$log" 2>&1 &
training=$! asked=
trap 'kill -TERM "$training" 2>/dev/null && asked=yes' TERM INT HUP
status=0
wait "$training" || status=$?
while [ -n "$asked" ]; do # `wait` was interrupted; the training saves and ends
    asked=
    status=0
    wait "$training" || status=$?
done
trap - TERM INT HUP
seconds=$(($(date +%s) - started))

# ---- the checkpoints under the reference's names
link_checkpoints() {
    local prefix file newest=
    for prefix in "$here"/ckpt/run/checkpoints/step-*/model-*.index; do
        [ -f "$(dirname -- "$prefix")/MANIFEST.json" ] || continue
        for file in "${prefix%.index}".*; do
            ln -sf -- "${file#"$here/ckpt/"}" "$here/ckpt/${file##*/}"
        done
        newest=$(basename -- "$prefix" .index) # steps have eight digits, so the last one is the newest
    done
    [ -z "$newest" ] || echo "model_checkpoint_path: \"$newest\"" >"$here/ckpt/checkpoint"
}
link_checkpoints
if [ "$status" != 0 ]; then
    tail -n 5 "$log"
    echo "[Error] the training ended with exit code $status: $log"
    printf 'To go on from its newest checkpoint: (cd %q &&' "$MTC_HOME"
    printf ' %q' "${command[@]}"
    printf ')\n'
    exit "$status"
fi

# ---- what the reference reports
CaseName=monoculartotalcapture_ID0866_for_Tensorflow_bs${batch_size}_${RANKS}p_$KIND
losses=$here/train_${CaseName}_loss.txt
TrainingTime=$(awk '/^Iteration/ { if (n++) sum += $10; else only = $10 } END { printf "%.6f", (n > 1 ? sum / (n - 1) : only) }' "$run/train.log")
FPS=$(awk -v size="$batch_size" -v ranks="$RANKS" -v seconds="$TrainingTime" 'BEGIN { printf "%.2f", size * ranks / seconds }')
awk '/^Iteration/ { sub(",", "", $4); print $4 }' "$run/train.log" >"$losses"
ActualLoss=$(tail -n 10 "$losses" | awk '{ sum += $1 } END { print sum / NR }')

echo "------------------ Final result ------------------"
echo "Final Performance images/sec : $FPS"
[ "$KIND" = perf ] || echo "Final Train Accuracy : $ActualLoss"
echo "E2E Training Duration sec : $seconds"
cat >"$here/$CaseName.log" <<EOF
Network = monoculartotalcapture_ID0866_for_Tensorflow
RankSize = $RANKS
BatchSize = $batch_size
DeviceType = $(uname -m)
CaseName = $CaseName
ActualFPS = $FPS
TrainingTime = $TrainingTime
ActualLoss = $ActualLoss
E2ETrainingTime = $seconds
EOF
