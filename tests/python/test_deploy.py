"""The files of examples/deploy say what the program understands: options, paths, the time that a stop may take."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from llama4rt.cli import serve
from llama4rt.server.server_options import ServerOptions

DEPLOY = Path(__file__).resolve().parents[2] / "examples/deploy"
PAST_DRAINING = 5  # seconds until a process that hangs has ended (docs/serving.md)
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "ENTRYPOINT", "HEALTHCHECK"}


def served(words: list[str]) -> argparse.Namespace:
    """What the command line makes of the words after `llama4rt`; it exits where it does not understand them."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve.add_parser(parser.add_subparsers(dest="command", required=True))
    return parser.parse_args(words)


class Unit(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and what follows them, lines that go on joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).strip().splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def container() -> tuple[dict[str, Any], dict[str, Any]]:
    deployment, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (one,) = pod["containers"]
    return pod, one


def test_the_unit_starts_the_server_and_lets_it_drain() -> None:
    unit = Unit()
    unit.read_string((DEPLOY / "llama4rt.service").read_text())
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/llama4rt")
    options = served(words)
    assert options.command == "serve" and options.file == "/srv/llama4rt/model.l4e"
    assert int(service["TimeoutStopSec"]) > options.drain_seconds + PAST_DRAINING


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("no systemd-analyze here")
    text = (DEPLOY / "llama4rt.service").read_text().replace("/opt/llama4rt/bin/llama4rt", "/bin/true")
    unit = tmp_path / "llama4rt.service"
    unit.write_text(text)
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert "llama4rt.service" not in done.stderr, done.stderr


def test_the_image_serves() -> None:
    instructions = dockerfile()
    assert {name for name, _ in instructions} == INSTRUCTIONS
    (entry,) = [rest for name, rest in instructions if name == "ENTRYPOINT"]
    program, *words = json.loads(entry)  # a list: a shell would keep SIGTERM from the server
    assert program == "llama4rt"
    options = served(words)
    assert (options.host, options.file) == ("0.0.0.0", None)
    (port,) = [rest for name, rest in instructions if name == "EXPOSE"]
    (check,) = [rest for name, rest in instructions if name == "HEALTHCHECK"]
    assert options.port == int(port) and f"127.0.0.1:{port}/health" in check
    json.loads(check[check.index("CMD ") + 4 :])
    (user,) = [rest for name, rest in instructions if name == "USER"]
    assert user != "root"


def test_the_image_is_built() -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        pytest.skip("no Docker engine here: the file was read, not built")
    root = DEPLOY.parents[1]
    subprocess.run(["docker", "build", "-q", "-f", str(DEPLOY / "Dockerfile"), str(root)], check=True)


def test_the_pod_serves_and_may_drain() -> None:
    pod, one = container()
    entry = next(rest for name, rest in dockerfile() if name == "ENTRYPOINT")
    options = served([*json.loads(entry)[1:], *one["args"]])
    assert options.file == "/models/model.l4e"
    assert pod["terminationGracePeriodSeconds"] > options.drain_seconds + PAST_DRAINING
    (port,) = one["ports"]
    assert port["containerPort"] == options.port
    probes = {
        kind: one[kind]["httpGet"]["path"] for kind in ("readinessProbe", "livenessProbe", "startupProbe")
    }
    assert probes == {"readinessProbe": "/ready", "livenessProbe": "/health", "startupProbe": "/health"}
    mounted = {mount["name"] for mount in one["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_service_reaches_the_pods_by_a_name_that_they_answer() -> None:
    deployment, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    _, one = container()
    hosts = one["args"][one["args"].index("--allowed-hosts") + 1 :]
    assert service["metadata"]["name"] in hosts
    assert service["spec"]["ports"][0]["targetPort"] == one["ports"][0]["name"]
    assert ServerOptions().drain_seconds == 30  # what docs/deployment.md and the files say
