"""Qwen architectures, from config.json and safetensors."""
