"""What `llama4rt demo` showed and heard, drawn on one sheet: pictures, questions, answers, and which are right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from llama4rt.cli.demo import Answered, FoundNeedle, Report

# Everything is drawn at twice the size given here, so that text is sharp on dense screens.
_SCALE = 2
_WIDTH = 1080
_MARGIN = 40
_PAD = 28  # inside a card
_GAP = 20  # between cards
_PICTURE = (300, 240)  # at most
_MARK = 22  # diameter of the circle beside an answer

_PAPER, _CARD, _LINE = "#f4f2ee", "#ffffff", "#dedad2"
_INK, _SOFT = "#22201d", "#7a746a"
_GREEN, _RED, _ACCENT = "#2e8b57", "#c8442f", "#2f5fc8"

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_sheet(report: "Report") -> Image.Image:
    """The whole sheet; its height follows from what there is to say."""
    height = _lay_out(_Canvas(1), report)  # once to measure
    canvas = _Canvas(height)
    _lay_out(canvas, report)
    return canvas.image


@dataclass
class _Canvas:
    """A sheet to draw on in unscaled pixels."""

    height: int
    image: Image.Image = field(init=False)
    draw: ImageDraw.ImageDraw = field(init=False)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (_WIDTH * _SCALE, self.height * _SCALE), _PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, size: float, fill: str) -> None:
        self.draw.text((x * _SCALE, y * _SCALE), text, font=_font(size), fill=fill)

    def box(
        self, x: float, y: float, w: float, h: float, fill: str, outline: str | None = None, r: int = 12
    ) -> None:
        corners = (x * _SCALE, y * _SCALE, (x + w) * _SCALE - 1, (y + h) * _SCALE - 1)
        self.draw.rounded_rectangle(corners, r * _SCALE, fill=fill, outline=outline, width=_SCALE)

    def line(self, points: Sequence[tuple[float, float]], fill: str, width: float) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self.draw.line(scaled, fill=fill, width=round(width * _SCALE), joint="curve")


def _font(size: float) -> _Font:
    """Pillow's own typeface; versions without it have one small bitmap font."""
    try:
        return ImageFont.load_default(size * _SCALE)
    except (TypeError, OSError):
        return ImageFont.load_default()


def _wrap(text: str, width: float, size: float) -> list[str]:
    """Lines no wider than `width`, broken at spaces; what has none is cut."""
    font = _font(size)
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= width * _SCALE:
                line = longer
                continue
            if line:
                lines.append(line)
            while font.getlength(word) > width * _SCALE and len(word) > 1:
                keep = next(
                    n
                    for n in range(len(word) - 1, 0, -1)
                    if n == 1 or font.getlength(word[:n]) <= width * _SCALE
                )
                lines.append(word[:keep])
                word = word[keep:]
            line = word
        lines.append(line)
    return lines


def _lay_out(canvas: _Canvas, report: "Report") -> int:
    """Draws everything from top to bottom and returns the height it takes."""
    x, inner = _MARGIN, _WIDTH - 2 * _MARGIN
    y: float = _MARGIN
    canvas.text(x, y, "llama4rt demo", 34, _INK)
    y += 52
    for line in _wrap(report.model[0].upper() + report.model[1:] + ".", inner, 15):
        canvas.text(x, y, line, 15, _SOFT)
        y += 22
    y += 18
    for path, answered in report.pictures:
        with Image.open(path) as opened:
            picture = _fitted(opened.convert("RGB"))
        beside = x + _PAD + _PICTURE[0] + _PAD
        words = list(_answer_lines(answered, x + inner - _PAD - beside))
        tall = max(picture.height / _SCALE, _height(words)) + 2 * _PAD
        canvas.box(x, y, inner, tall, _CARD, _LINE)
        left = x + _PAD + (_PICTURE[0] - picture.width / _SCALE) / 2
        top = y + (tall - picture.height / _SCALE) / 2
        canvas.image.paste(picture, (round(left * _SCALE), round(top * _SCALE)))
        frame = (
            left * _SCALE,
            top * _SCALE,
            left * _SCALE + picture.width - 1,
            top * _SCALE + picture.height - 1,
        )
        canvas.draw.rectangle(frame, outline=_LINE, width=_SCALE)
        _draw_lines(canvas, beside, y + (tall - _height(words)) / 2, words)
        y += tall + _GAP
    y = _needle_card(canvas, x, y, inner, report.needle)
    words = list(_answer_lines(report.texts, inner - 2 * _PAD))
    if words:
        tall = _height(words) + 2 * _PAD
        canvas.box(x, y, inner, tall, _CARD, _LINE)
        _draw_lines(canvas, x + _PAD, y + _PAD, words)
        y += tall + _GAP
    s = report.speed
    speed = (
        f"Reads {s.prefill:,.0f} and writes {s.decode:,.0f} tokens per second; writing reads {s.read_gbps:.2f} GB/s, "
        f"{s.share}."
    )
    for line in _wrap(speed, inner, 15):
        canvas.text(x, y, line, 15, _SOFT)
        y += 22
    return round(y + _MARGIN - 10)


def _fitted(picture: Image.Image) -> Image.Image:
    scale = min(_PICTURE[0] / picture.width, _PICTURE[1] / picture.height) * _SCALE
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class _Line:
    text: str
    size: float
    fill: str
    step: float  # to the next line
    right: bool | None = None  # a mark stands left of it
    indent: float = 0


def _answer_lines(answered: Sequence["Answered"], width: float) -> Iterator[_Line]:
    room = width - _MARK - 12
    for i, qa in enumerate(answered):
        if i:
            yield _Line("", 1, _INK, 14)
        for line in _wrap(qa.question, room, 15):
            yield _Line(line, 15, _SOFT, 23, indent=_MARK + 12)
        for j, line in enumerate(_wrap(qa.answer or "(nothing)", room, 19)):
            yield _Line(line, 19, _INK, 27, qa.right if j == 0 else None, _MARK + 12)
        if qa.right is False:
            for line in _wrap(f"expected: {qa.expected}", room, 14):
                yield _Line(line, 14, _RED, 20, indent=_MARK + 12)


def _height(lines: Sequence[_Line]) -> float:
    return sum(line.step for line in lines)


def _draw_lines(canvas: _Canvas, x: float, y: float, lines: Sequence[_Line]) -> None:
    for line in lines:
        if line.right is not None:
            _mark(canvas, x, y + (line.step - _MARK) / 2 - 1, line.right)
        if line.text:
            canvas.text(x + line.indent, y, line.text, line.size, line.fill)
        y += line.step


def _mark(canvas: _Canvas, x: float, y: float, right: bool) -> None:
    """A tick or a cross in a circle."""
    canvas.box(x, y, _MARK, _MARK, _GREEN if right else _RED, r=_MARK // 2)
    a, b = x + _MARK / 2, y + _MARK / 2
    if right:
        canvas.line([(a - 5, b), (a - 1.5, b + 4), (a + 5.5, b - 4)], "white", 2.4)
    else:
        canvas.line([(a - 4, b - 4), (a + 4, b + 4)], "white", 2.4)
        canvas.line([(a - 4, b + 4), (a + 4, b - 4)], "white", 2.4)


def _needle_card(canvas: _Canvas, x: float, y: float, width: float, needle: "FoundNeedle") -> float:
    """The long text as a row of its attention chunks, the one with the fact marked. Returns where the next card is."""
    words = list(_answer_lines([needle.answered], width - 2 * _PAD))
    tall = 2 * _PAD + 34 + 34 + 18 + _height(words)
    canvas.box(x, y, width, tall, _CARD, _LINE)
    chunk = needle.chunk or needle.tokens
    count = -(-needle.tokens // chunk)
    found = None if needle.place is None else needle.place // chunk
    inside = f"in chunk {found + 1} of {count}" if found is not None and needle.chunk else "somewhere"
    title = f"A fact hidden {inside}, in {needle.tokens:,} tokens; read in {needle.seconds:.2f} s"
    canvas.text(x + _PAD, y + _PAD, title, 15, _SOFT)
    gap = 4 if count <= 64 else 1
    cell = (width - 2 * _PAD - gap * (count - 1)) / count
    for i in range(count):
        fill = _ACCENT if i == found else _LINE
        canvas.box(
            x + _PAD + i * (cell + gap), y + _PAD + 34, max(cell, 1), 28, fill, r=min(4, int(cell / 2))
        )
    _draw_lines(canvas, x + _PAD, y + _PAD + 34 + 34 + 18, words)
    return y + tall + _GAP
