"""Tokenizers: a checkpoint becomes tokens and comes back, bit for bit. One tokenizer per file."""
