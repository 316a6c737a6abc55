#!/usr/bin/env bash
# serve_vllm.sh ENV_DIR MODEL_DIR PORT [vllm serve flags]: vLLM on the CPU, eager, both cores, on loopback.
set -euo pipefail
env_dir=$1 model=$2 port=$3
shift 3
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
export VLLM_CPU_KVCACHE_SPACE=${KV_GB:-2} VLLM_CPU_OMP_THREADS_BIND=${THREADS:-0-1}
# Intel's OpenMP and tcmalloc, where they are, are worth up to 20 % at one request.
preload=""
for library in "$(cd "$env_dir" && pwd)/lib/libiomp5.so" /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4; do
  [ -e "$library" ] && preload=$preload${preload:+:}$library
done
[ -n "$preload" ] && export LD_PRELOAD=$preload
exec "$env_dir/bin/vllm" serve "$model" --host 127.0.0.1 --port "$port" --enforce-eager "$@"
