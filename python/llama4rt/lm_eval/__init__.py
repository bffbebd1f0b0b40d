"""EleutherAI's lm-evaluation-harness over an engine file: `python -m llama4rt.lm_eval --model llama4rt ...`, with the
harness's own options (docs/quality.md).

harness_requests.py answers the harness's three kinds of requests and does not need it; model.py is the class that it
knows under the name "llama4rt".
"""
