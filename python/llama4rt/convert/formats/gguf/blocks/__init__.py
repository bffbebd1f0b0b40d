"""The block types of ggml: how a row of a quantised tensor becomes codes with scales, one file per family."""
