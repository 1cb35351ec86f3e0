"""Formats: files of other programs become state dicts. Nothing is unpickled, executed or downloaded.

Here: files of safetensors and of `torch.save`, folders of the Hugging Face hub, sharded or not, LoRA adapters. Not here: our own
zoos (`zoo_gen`) and runs (`wsl.run`).
"""
