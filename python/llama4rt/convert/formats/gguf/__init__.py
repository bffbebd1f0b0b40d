"""GGUF, the file format of llama.cpp: container, metadata, quantised blocks, names, tokenizer, vision tower."""
