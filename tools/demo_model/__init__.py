"""The small trained Llama 4 that ships with llama4rt: its data, its training and its evaluation.

Generators (scenes, questions, documents, held_out) need numpy and Pillow only; torch and transformers are needed by
the training and by the evaluation of the bf16 checkpoint.
"""
