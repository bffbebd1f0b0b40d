"""llama-server's own endpoints as thin forms of ours: /completion and /props."""
