"""How good an engine file is: likelihoods of text, distance from another engine file, and where it leaves its
checkpoint (docs/quality.md). Commands `eval` and `diff`; nothing of it is needed to run a model.
"""
