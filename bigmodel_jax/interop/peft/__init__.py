"""Adapters as PEFT stores them: a directory with adapter_config.json and adapter_model.safetensors."""
