"""From a Hugging Face checkpoint to an engine file: read the config, map the names, quantise, write."""
