"""Stands in for vLLM, which needs a GPU: as much of it as ``vllm_handler`` touches, where vLLM 0.11 has it."""
