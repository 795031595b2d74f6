"""Draw trace.svg from trace.jsonl, lines of a real trace file, with the renderer of `vmm run --trace`.

python docs/images/draw.py
"""

import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from vmm.trace import TraceEvent, render

HERE = Path(__file__).resolve().parent
WIDTH = 138


def draw() -> None:
    """Write trace.svg."""
    console = Console(record=True, width=WIDTH, force_terminal=True, color_system="truecolor", file=StringIO())
    for line in (HERE / "trace.jsonl").read_text().splitlines():
        console.print(render(TraceEvent(**json.loads(line)), WIDTH), highlight=False)
    console.save_svg(str(HERE / "trace.svg"), title="vmm run build/demo.img --trace critical,mode")


if __name__ == "__main__":
    draw()
