"""Stands in for vLLM, which needs a GPU: as much of it as ``vllm_handler`` touches, by vLLM 0.11 to 0.33."""
