"""`llama4rt doctor`: what this machine and this build have, what llama4rt will use of it, and what to do about the
rest."""

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from typing import Any

_MIN_FREE = 4 << 30


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what this machine has and what llama4rt will use",
        description="Say what processors, memory, GPUs and driver this machine has, what llama4rt will use of them, "
        "and what to do where something is missing. Exit status 0: everything found can be used; 1: something that "
        "is there, or was asked for with --require, cannot be.",
    )
    parser.add_argument(
        "--require", choices=["cpu", "cuda"], default="cpu", help="fail unless this can be used"
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(args: argparse.Namespace) -> int:
    facts = examine()
    problems = find_problems(facts, args.require)
    if args.json:
        print(json.dumps(facts | {"problems": problems}, indent=2))
    else:
        print("\n".join(_lines(facts, problems)))
    return 1 if problems else 0


def examine() -> dict[str, Any]:
    """What is there, as JSON values."""
    from llama4rt import _core
    from llama4rt.cli.provenance import machine

    cuda = _core.find_cuda()
    usable = [i for i, device in enumerate(cuda["devices"]) if not device["problem"]]
    return {
        "version": _core.version(),
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "build": _core.build_info(),
        "machine": machine(),
        "available_memory": _core.available_memory(),
        "cuda": cuda,
        "devices": ["cpu", *(f"cuda:{i}" for i in usable)],
    }


def find_problems(facts: Mapping[str, Any], require: str = "cpu") -> list[str]:
    """What is there and cannot be used, or is required and missing; each with what to do."""
    cuda = facts["cuda"]
    problems = [
        f"cuda:{i} ({device['name']}) cannot be used: {device['problem']}"
        for i, device in enumerate(cuda["devices"])
        if device["problem"]
    ]
    # A driver that is there but does not work is a problem; none at all, or a build without CUDA, is a choice.
    if cuda["problem"] and (require == "cuda" or (cuda["built"] and cuda["driver"] > 0)):
        problems.append(cuda["problem"])
    elif require == "cuda" and len(facts["devices"]) == 1 and not problems:
        problems.append("no GPU can be used")
    return problems


def _lines(facts: Mapping[str, Any], problems: list[str]) -> Iterator[str]:
    build, machine, cuda = facts["build"], facts["machine"], facts["cuda"]
    yield f"llama4rt {facts['version']}, Python {facts['python']}, {facts['system']}"
    yield f"build      {build['compiler']}, {'with' if cuda['built'] else 'without'} CUDA" + (
        f" {_version(cuda['runtime'])}" if cuda["built"] else ""
    )
    yield f"processor  {machine['cpu']}, {machine['cpus']} available"
    yield (
        f"kernels    {build['selected_isa']} (of {', '.join(build['cpu_isas'])}; LLAMA4RT_CPU_ISA chooses another)"
    )
    free = facts["available_memory"]
    yield f"memory     {machine['memory_gib']:.1f} GiB, {free / 2**30:.1f} GiB available to this process"
    if cuda["problem"]:
        yield f"GPU        none: {cuda['problem']}"
    else:
        yield f"driver     supports CUDA {_version(cuda['driver'])}"
    for i, device in enumerate(cuda["devices"]):
        major, minor = device["compute_capability"]
        yield (
            f"cuda:{i}     {device['name']}, {device['memory'] / 2**30:.1f} GiB, compute capability {major}.{minor}, "
            f"{device['multiprocessors']} multiprocessors" + (" (not usable)" if device["problem"] else "")
        )
    yield ""
    yield "will use   " + _use(facts["devices"])
    if free < _MIN_FREE:
        yield f"note       only {free >> 20} MiB are free; a larger model is read from disk again and again"
    for problem in problems:
        yield f"problem    {problem}"


def _use(devices: list[str]) -> str:
    if len(devices) == 1:
        return "the CPU, for engine files built with --target cpu"
    return (
        f'{devices[1]} for engine files built with --target cuda, the CPU for the others (device="auto"); '
        f"or what is asked for: {', '.join(devices)}"
    )


def _version(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
