#!/usr/bin/env bash
# Train the dual net under torchrun, messages by torch.distributed.  -h shows what can be set.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'TEXT'
usage: examples/torchrun.sh [FLAGS]

Trains one network as two processes that exchange their messages by torch.distributed.  FLAGS are
those of `dualnet train dual`:

    examples/torchrun.sh --data shapes --iterations 300

On two machines start it on each with the same FLAGS and MASTER_ADDR, and its own NODE_RANK:

    NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 examples/torchrun.sh --iterations 300
    NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 examples/torchrun.sh --iterations 300

The environment:

    NNODES, NODE_RANK         number of machines (default: 1), and which of them this is, from 0
    MASTER_ADDR, MASTER_PORT  an address of machine 0 that the other reaches, and a free port of it
                              (default: 29500)
    NPROC_PER_NODE            processes of each machine (default: 2 of one machine, 1 of several);
                              all together as many as the net has parts
    GLOO_SOCKET_IFNAME        network interface of the messages, as `ip address` names it.  By
                              default the one that the name of the machine leads to, which may be
                              the loopback: set it where machines do not find each other
    NCCL_SOCKET_IFNAME        the same for --backend nccl; ^docker,lo leaves interfaces out
    PYTHON                    another interpreter than python3

Nothing is encrypted and nobody is authenticated: take a private network.
TEXT
}

for word in "$@"; do
    if [[ $word == -h || $word == --help ]]; then
        usage
        exit 0
    fi
done

nodes="${NNODES:-1}"
if ((nodes == 1)); then
    meeting=(--standalone)
    processes="${NPROC_PER_NODE:-2}"
    export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-lo}"
else
    meeting=(--nnodes "$nodes" --node-rank "${NODE_RANK:?is the number of this machine, from 0}"
             --master-addr "${MASTER_ADDR:?is an address of machine 0}"
             --master-port "${MASTER_PORT:-29500}")
    processes="${NPROC_PER_NODE:-1}"
fi

python=$("${PYTHON:-python3}" "$here/dualnet/bootstrap.py")
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
# SIGUSR1 is what a batch system sends before time is up; torchrun passes these on to the roles.
exec "$python" -m torch.distributed.run "${meeting[@]}" --nproc-per-node "$processes" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    -m dualnet train dual --backend gloo "$@"
