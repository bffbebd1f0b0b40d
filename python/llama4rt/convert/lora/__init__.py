"""LoRA adapters of PEFT, merged into a checkpoint's numbers while they are read."""
