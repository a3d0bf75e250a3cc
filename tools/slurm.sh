#!/usr/bin/env bash
# Pretrain on all nodes of a SLURM job; a job whose time is up goes on by itself in the queue.
#
#     sbatch --nodes 4 --gpus-per-node 8 --time 24:00:00 tools/slurm.sh RECIPE --folder runs/NAME [flags]
#
# Some minutes before the limit SLURM sends SIGUSR1 to this script alone (B: below). The script hands it to srun, srun to
# the launcher on every node, and the launcher to its processes: they finish the step, save, and end. The job is then
# requeued, and the same command goes on in the same folder, which all nodes must see. A run that has finished is not
# requeued, nor one that failed. A launcher starts the processes again up to RESTARTS times where one was lost.
#
# Settings, from the environment:
#   PYTHON               the interpreter that has selfsup (python)
#   PROCESSES_PER_NODE   a number, or gpu: one for each GPU (gpu)
#   RESTARTS             of lost processes, within one job (3)
#   SAVE_SECONDS         from the signal to the end of saving (240); a little less than --signal says
#
#SBATCH --job-name=selfsup
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

set -u

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
output=$(mktemp)
# The launcher kills processes that are not done in this time; torch grants half a minute unless told otherwise.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${SAVE_SECONDS:-240}"
# A store of its own for every start: that of the launcher keeps the addresses of processes that are gone.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# The first launcher to end must not take the others along: they may still be saving.
srun --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=0 \
    "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="${PROCESSES_PER_NODE:-gpu}" \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$first:$((29500 + SLURM_JOB_ID % 1000))" \
    --max-restarts="${RESTARTS:-3}" --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    -- -m selfsup pretrain "$@" >"$output" &
step=$!
warned=
trap 'warned=yes; kill -USR1 "$step" 2>/dev/null' USR1

while kill -0 "$step" 2>/dev/null; do # a signal ends the waiting too
    wait "$step"
done
wait "$step"
code=$?

cat "$output" # the figures, one line of JSON
if [ -n "$warned" ] && grep -q '"reason": "signal"' "$output"; then
    rm -f "$output"
    exec scontrol requeue "$SLURM_JOB_ID"
fi
rm -f "$output"
exit "$code"
