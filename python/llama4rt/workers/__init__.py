"""Work on untrusted input in child processes that can be killed: chat templates, grammars, pictures."""
