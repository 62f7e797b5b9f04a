#!/usr/bin/env bash
# Train the dual net as two processes on this machine.  -h shows what can be set.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

usage() {
    cat <<'TEXT'
usage: ./run_two_gpu.sh [FLAGS]

Trains one network as two processes that meet only in a folder: net1 on GPU 0 and net2 on GPU 1,
both on one GPU if there is only one, on the CPU if there is none.  Makes .venv and installs the
requirements if the current Python lacks them.  FLAGS are those of `dualnet train dual`:

    ./run_two_gpu.sh --iterations 300
    ./run_two_gpu.sh --loss euclidean --data cifar10 --out runs/my-run

The variable PYTHON names another interpreter than python3, CUDA_VISIBLE_DEVICES other GPUs.
TEXT
}

for word in "$@"; do
    if [[ $word == -h || $word == --help ]]; then
        usage
        [[ $word == -h ]] && exit 0
    fi
done

python=$("${PYTHON:-python3}" "$here/dualnet/bootstrap.py")
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m dualnet train dual "$@"
