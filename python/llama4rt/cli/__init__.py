"""The `llama4rt` command. The only part of the package that prints and exits."""
