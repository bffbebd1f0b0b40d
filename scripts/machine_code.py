"""Reads the machine code of kernels: where their loops are, and what one round of a loop costs on each pipe.

Input is the text of `nvdisasm -c`. A kernel becomes basic blocks; a loop is what a backward branch closes. One round of
a loop is the cheapest way through it that meets every block with real work (products, and the copies that feed them):
refills, ends of rows and other rare branches are not on it. scripts/machine_code_counts.py writes the counts down.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

_SECTION = re.compile(r"^\.text\.(\w+):")
_LABEL = re.compile(r"^(\.L_x_\w+):")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
_PREDICATE = re.compile(r"^@!?U?P\w+\s+")
_TARGET = re.compile(r"`\((\.L_x_\w+)\)")

# Which pipe takes an operation (the part of its name before the first dot), for compute capability 9.0. Everything that
# is in no list is of the integer and logic pipe ("alu"), which takes a warp every second cycle.
PIPES = {
    "tensor": "HMMA IMMA DMMA BMMA HGMMA IGMMA QGMMA",
    "fma": "FFMA FMUL FADD HFMA2 HADD2 HMUL2 FSWZADD",
    "imad": "IMAD",
    "xu": "MUFU I2F F2I POPC FLO BREV F2F",
    "fp64": "DADD DMUL DFMA DSETP",
    "lsu": "LDS STS LDSM STSM LDG STG LDL STL LD ST LDGSTS SHFL ATOMG ATOMS ATOM RED SYNCS UBLKCP UTMALDG",
    "control": "BRA BRX BSSY BSYNC NOP EXIT WARPSYNC BAR DEPBAR LDGDEPBAR WARPGROUP YIELD CALL RET ELECT ACQBULK "
    "PREEXIT MEMBAR ERRBAR CCTL BREAK WARPGROUPSET USETMAXREG FENCE",
    "other": "LDC LDCU S2R CS2R S2UR R2UR VOTE VOTEU MATCH REDUX",
}
_PIPE_OF = {name: pipe for pipe, names in PIPES.items() for name in names.split()}

# Blocks with one of these do what a loop is for.
WORK = frozenset({"HMMA", "IMMA", "HGMMA", "IGMMA", "QGMMA", "LDSM", "LDGSTS", "UBLKCP", "UTMALDG"})


@dataclass
class Instruction:
    address: int
    text: str

    @property
    def name(self) -> str:
        """With its modifiers: "HMMA.16816.F32.BF16"."""
        return _PREDICATE.sub("", self.text).split()[0]

    @property
    def operation(self) -> str:
        return self.name.split(".")[0]

    @property
    def pipe(self) -> str:
        operation = self.operation
        if operation in _PIPE_OF:
            return _PIPE_OF[operation]
        return "other" if operation.startswith("U") else "alu"  # the uniform datapath has its own pipe


@dataclass
class Block:
    """Instructions that run one after the other, and the blocks that may follow."""

    first: int  # index of the first instruction
    instructions: list[Instruction]
    next: list[int] = field(default_factory=list)  # blocks

    def has(self, operations: frozenset[str]) -> bool:
        return any(i.operation in operations for i in self.instructions)


@dataclass
class Kernel:
    name: str  # mangled
    instructions: list[Instruction]
    labels: dict[str, int]  # -> index into instructions

    def blocks(self) -> list[Block]:
        """In the order of their addresses."""
        starts = {0, *self.labels.values()}
        for i, instruction in enumerate(self.instructions):
            if instruction.operation in ("BRA", "EXIT", "RET", "BREAK"):
                starts.add(i + 1)
        order = sorted(s for s in starts if s < len(self.instructions))
        at = {first: number for number, first in enumerate(order)}
        blocks = []
        for number, first in enumerate(order):
            end = order[number + 1] if number + 1 < len(order) else len(self.instructions)
            block = Block(first, self.instructions[first:end])
            last = block.instructions[-1]
            always = not _PREDICATE.match(last.text) and not re.search(r"\bU?P[0-6]\b,", last.text)
            if last.operation == "BRA":
                target = _TARGET.search(last.text)
                if target:
                    block.next.append(at[self.labels[target[1]]])
            if not (always and last.operation in ("BRA", "EXIT", "RET")) and end < len(self.instructions):
                block.next.append(at[end])
            blocks.append(block)
        return blocks


def read_kernels(text: str) -> list[Kernel]:
    """The kernels of what nvdisasm printed."""
    kernels: list[Kernel] = []
    for line in text.splitlines():
        if match := _SECTION.match(line):
            kernels.append(Kernel(match[1], [], {}))
        elif not kernels:
            continue
        elif match := _LABEL.match(line):
            kernels[-1].labels[match[1]] = len(kernels[-1].instructions)
        elif match := _INSTRUCTION.match(line):
            kernels[-1].instructions.append(Instruction(int(match[1], 16), match[2]))
    return kernels


def loops(blocks: list[Block]) -> list[tuple[int, int]]:
    """(head, last block) of every backward branch, inner loops before those around them."""
    found: dict[int, int] = {}
    for number, block in enumerate(blocks):
        for target in block.next:
            if target <= number and any(i.operation == "BRA" for i in block.instructions[-1:]):
                found[target] = max(found.get(target, 0), number)
    return sorted(found.items(), key=lambda loop: (loop[1] - loop[0], loop[0]))


def _cheapest(blocks: list[Block], begin: int, end: int, last: int) -> list[int] | None:
    """The way from `begin` to `end` with the fewest instructions, forwards only and not past block `last`."""
    cost: dict[int, int] = {begin: len(blocks[begin].instructions)}
    before: dict[int, int] = {}
    for number in range(begin, last + 1):  # addresses ascend along every forward branch
        if number not in cost:
            continue
        for target in blocks[number].next:
            if number < target <= last:
                through = cost[number] + len(blocks[target].instructions)
                if through < cost.get(target, through + 1):
                    cost[target], before[target] = through, number
    if end not in cost:
        return None
    way = [end]
    while way[-1] != begin:
        way.append(before[way[-1]])
    return way[::-1]


def one_round(
    blocks: list[Block],
    loop: tuple[int, int],
    work: frozenset[str] = WORK,
    without: frozenset[str] = frozenset(),
) -> list[int]:
    """The blocks that one round of a loop runs through: the cheapest way that meets all blocks with an operation of
    `work`, but none that has one of `without`.
    """
    head, last = loop
    way = [head]
    for number in range(head, last + 1):
        if number != last and (not blocks[number].has(work) or blocks[number].has(without)):
            continue
        part = _cheapest(blocks, way[-1], number, last)
        if part:  # None: an alternative to a block that is on the way already
            way += part[1:]
    return way


def instructions_of(blocks: list[Block], way: list[int]) -> list[Instruction]:
    return [i for number in way for i in blocks[number].instructions]


def count(instructions: list[Instruction]) -> dict[str, int]:
    """Warp instructions by pipe, all of them as "issue", and the tensor instructions by shape."""
    counts = Counter(i.pipe for i in instructions)
    counts["issue"] = len(instructions)
    for i in instructions:
        if i.pipe == "tensor":
            counts[_shape(i.name)] += 1
    return dict(sorted(counts.items()))


def _shape(name: str) -> str:
    """ "HMMA.16816.F32.BF16" -> "HMMA.16816", "HGMMA.64x128x16.F32.BF16" -> "HGMMA.64x128x16"."""
    return ".".join(name.split(".")[:2])


def products(instructions: list[Instruction], operation: str = "") -> int:
    """How many tensor instructions, of one kind or of any."""
    return sum(i.pipe == "tensor" and i.operation.startswith(operation) for i in instructions)
