"""Your own pictures, a folder for each class: python examples/own_pictures.py [PICTURES] [OVERRIDE…]

    PICTURES/cat/1.jpg  PICTURES/cat/2.jpg  PICTURES/dog/1.png …

Without a folder it makes one, of coloured squares. The same from the shell: clipeval run task=folder task.data.path=PICTURES
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from clipeval.cli.main import main
from clipeval.configs.compose import override


def squares(folder: Path) -> Path:
    """Eight squares of each of three colours, from dark to light."""
    for name, colour in {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}.items():
        (folder / name).mkdir(parents=True)
        for i in range(8):
            shade = tuple(part * (100 + 20 * i) for part in colour)
            Image.new("RGB", (48, 48), shade).save(folder / name / f"{i}.png")
    return folder


given = [word for word in sys.argv[1:] if "=" not in word]
rest = [word for word in sys.argv[1:] if "=" in word]
with tempfile.TemporaryDirectory() as scratch:
    pictures = Path(given[0]) if given else squares(Path(scratch) / "squares")
    words = [
        "task=folder",
        override("task.data.path", str(pictures)),
        "task.data.classnames={red: red, green: green, blue: blue}",
    ]
    status = main(["run", *(words if not given else words[:2]), *rest])
sys.exit(status)
