"""diff(): where an engine file first leaves its checkpoint, step by step (docs/quality.md).

The engine's own ops run on a short prompt and are observed. Every step is computed once more from what the engine gave
it, in fp32 with the checkpoint's values (reference.py), and the difference is held against what the file's rounding
explains (rounding.py). A mistake therefore shows where it is made and nowhere behind it. Beside that the reference runs
on by itself from the embedding, and the distance to it says how far errors have grown.
"""
