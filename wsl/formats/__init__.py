"""Formats: whatever people have on disk becomes a state dict. Nothing is unpickled, executed or downloaded.

Here: files of safetensors and of `torch.save`, folders of the Hugging Face hub, sharded or not, LoRA adapters. Not here: our own
zoos (`zoo_gen`) and runs (`wsl.run`).
"""
