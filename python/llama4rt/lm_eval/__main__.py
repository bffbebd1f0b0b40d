"""The harness's own command line, with the model "llama4rt" registered."""

import sys


def main() -> None:
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError as error:
        raise SystemExit(f"error: {error}; pip install lm-eval installs the harness") from None
    import llama4rt.lm_eval.model  # noqa: F401  # registers it

    sys.argv[0] = "lm_eval"
    cli_evaluate()


if __name__ == "__main__":
    main()
