"""Plugins for programs that serve diffusion models: sglang and vllm-omni. Imports nothing of them by itself.

`asked` reads what a request asks for, `levels` what a server's scheduler says, `sampling` holds a model for one
sampling; `sglang` and `vllm_omni` are the doors, each found by its server through an entry point.
"""
