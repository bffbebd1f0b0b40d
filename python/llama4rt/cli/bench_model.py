"""`llama4rt bench --model-gpu`: the speeds that the model of the GPU predicts, without one.

Every line says what part of the limit it is, what the three longest kernels wait for, and how unsure the prediction is.
"""

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama4rt.gpu_model.predict import Prediction

_LONGEST = 3


def run(args: argparse.Namespace) -> int:
    from llama4rt.cli.plan import weight_options
    from llama4rt.convert.named_configs import model_config
    from llama4rt.errors import ConfigError
    from llama4rt.gpu_model.chip import chip
    from llama4rt.gpu_model.step import Model

    if args.config is None or args.file is not None:
        raise ConfigError("--model-gpu predicts for --config NAME, without FILE")
    gpu = chip(args.model_gpu)
    dtype = "bf16" if args.kv_cache_dtype == "auto" else args.kv_cache_dtype
    model = Model.of_config(model_config(args.config), weight_options(args), dtype)
    results = [
        _decode(gpu, model, batch, depth) for depth in args.depth for batch in args.batch if any(args.gen)
    ]
    results += [
        _prefill(gpu, model, tokens, depth) for depth in args.depth for tokens in args.prompt if tokens
    ]
    if args.output == "json":
        constants = {
            name: {
                "value": c.value,
                "unit": c.unit,
                "source": c.source,
                "error": c.error,
                "silicon": c.silicon,
            }
            for name, c in gpu.constants().items()
        }
        print(
            json.dumps(
                {"gpu": gpu.name, "predicted": True, "constants": constants, "results": results}, indent=2
            )
        )
    else:
        _print_table(results, gpu.name)
    return 0


def _decode(gpu: Any, model: Any, batch: int, depth: int) -> dict[str, Any]:
    from llama4rt.gpu_model.step import decode_step

    title = f"tg @ d{depth}" + (f", b{batch}" if batch > 1 else "")
    return _result(gpu, title, decode_step(gpu, model, batch, depth), batch)


def _prefill(gpu: Any, model: Any, tokens: int, depth: int) -> dict[str, Any]:
    from llama4rt.gpu_model.step import prefill_step

    title = f"pp{tokens}" + (f" @ d{depth}" if depth else "")
    return _result(gpu, title, prefill_step(gpu, model, tokens, depth), tokens)


def _result(gpu: Any, title: str, launches: Any, tokens: int) -> dict[str, Any]:
    from llama4rt.gpu_model.predict import predict, relative_error, total_seconds
    from llama4rt.gpu_model.step import limit_seconds

    predictions = predict(gpu, launches)
    seconds = total_seconds(predictions)
    return {
        "test": title,
        "tokens_per_second": tokens / seconds,
        "error": relative_error(gpu, launches),
        "of_limit": limit_seconds(gpu, launches) / seconds,
        "launches": sum(launch.count for launch in launches),
        "kernels": [_kernel(p, seconds) for p in predictions],
    }


def _kernel(prediction: "Prediction", step: float) -> dict[str, Any]:
    launch = prediction.launch
    return {
        "role": launch.role,
        "count": launch.count,
        "microseconds": 1e6 * prediction.seconds,
        "of_step": prediction.seconds * launch.count / step,
        "limiter": prediction.limiter,
        "parts_microseconds": {name: 1e6 * part for name, part in sorted(prediction.parts.items())},
    }


def _print_table(results: list[dict[str, Any]], gpu: str) -> None:
    print(
        f"| predicted, {gpu} | tokens/s | of the limit | launches | longest kernels: part of the step, limiter |"
    )
    print("|---|---:|---:|---:|---|")
    for result in results:
        speed = f"{result['tokens_per_second']:.0f} ± {100 * result['error']:.0f} %"
        longest = sorted(result["kernels"], key=lambda k: -k["of_step"])[:_LONGEST]
        words = "; ".join(f"{k['role']} {100 * k['of_step']:.0f} %, {k['limiter']}" for k in longest)
        limit = f"{100 * result['of_limit']:.0f} %"
        print(f"| {result['test']} | {speed} | {limit} | {result['launches']} | {words} |")
    print(
        "\nPredictions from counted machine code and published constants, not measurements: docs/gpu-model.md."
    )
