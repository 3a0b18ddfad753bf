"""Render the sections of a report as Markdown and as a self-contained HTML file."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from ovsdino_benchmarks.quality.gallery import VIEWS, Picture

NUMBER = " class=number"


@dataclass(frozen=True)
class Table:
    """A table: header and rows with the same number of cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A section of a report: heading, text, tables, plots and pictures."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[str, ...] = ()  # SVG
    pictures: tuple[Picture, ...] = ()
    commands: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Tell whether the section has no content."""
        return not (self.text or self.tables or self.plots or self.pictures or self.commands)


def to_markdown(title: str, sections: Iterable[Section]) -> str:
    """Return text, tables and commands as Markdown, without plots and pictures."""
    blocks = [f"# {title}"]
    for section in sections:
        if section.text or section.tables or section.commands:
            blocks += [f"## {section.title}", *section.text, *map(_markdown_table, section.tables)]
            if section.commands:
                blocks.append("```bash\n" + "\n".join(section.commands) + "\n```")
    return "\n\n".join(blocks) + "\n"


def to_html(title: str, sections: Iterable[Section]) -> str:
    """Return one HTML page that includes styles, plots and pictures."""
    style = (resources.files("ovsdino_benchmarks") / "data/report.css").read_text(encoding="utf-8")
    body = "\n".join(_html_section(section) for section in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )


def _markdown_table(table: Table) -> str:
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _html_section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>", *(f"<p>{escape(text)}</p>" for text in section.text)]
    parts += map(_html_table, section.tables)
    parts += (f'<figure class="plot">{plot}</figure>' for plot in section.plots)
    parts += map(_html_picture, section.pictures)
    if section.commands:
        parts.append(f"<pre>{escape(chr(10).join(section.commands))}</pre>")
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _html_table(table: Table) -> str:
    columns = zip(table.header, zip(*table.rows, strict=True), strict=True)
    header = "".join(_head(name, cells) for name, cells in columns)
    rows = "\n".join(map(_row, table.rows))
    table_text = f"<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}\n</tbody>"
    return f'<div class="table"><table>\n{table_text}</table></div>'


def _head(name: str, cells: Sequence[str]) -> str:
    right = all(_kind(cell) == NUMBER for cell in cells if cell)
    return f"<th{NUMBER if right else ''}>{escape(name)}</th>"


def _row(cells: Sequence[str]) -> str:
    inner = "".join(f"<td{_kind(cell)}>{escape(cell)}</td>" for cell in cells)
    return f"<tr{' class=ours' if cells[0].startswith('measured:') else ''}>{inner}</tr>"


def _kind(cell: str) -> str:
    if cell[:1].isdigit() or cell == "-":
        return NUMBER
    return " class=long" if len(cell) > 24 else ""


def _html_picture(picture: Picture) -> str:
    shots = "".join(
        f'<figure><img alt="{escape(view)}" loading="lazy" src="data:image/jpeg;base64,'
        f'{base64.b64encode(file.read_bytes()).decode()}"><figcaption>{escape(view)}</figcaption></figure>'
        for view, file in zip(VIEWS, picture.files, strict=True)
    )
    return f'<h3>{escape(picture.title)}</h3>\n<div class="shots">{shots}</div>'
