"""Text: tokenizer and detokenizer, chat templates (rendered in a child process with limits), and prompts made of them.

Importing this package imports nothing: the template's child process needs no native code.
"""
