"""Folders of models as strangers may have made them: links that lead out, files too large to read, names of the hub."""

import re
from pathlib import Path

from backend.domain.errors import InvalidInput, NotSupported

MAX_CONFIG = 16 * 2**20
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def read_config_bytes(folder: Path) -> bytes:
    """Return the bytes of config.json. Raises NotSupported above MAX_CONFIG, where no configuration is."""
    with (folder / "config.json").open("rb") as file:
        content = file.read(MAX_CONFIG + 1)
    if len(content) > MAX_CONFIG:
        raise NotSupported(f"config.json is larger than {MAX_CONFIG // 2**20} MiB.")
    return content


def check_inside(folder: Path, models_dir: Path) -> None:
    """Raise NotSupported if the folder, or a file in it, is a link that leads out of the models folder."""
    root = models_dir.resolve()
    for path in (folder, *folder.iterdir()):
        if not path.resolve().is_relative_to(root):
            what = "It" if path == folder else f"Its {path.name[:100]}"
            raise NotSupported(
                f"{what} is a link that leads out of the models folder, and nothing outside it is read. Move the files "
                "in, or set ROUTEPRINT_MODELS_DIR to where they are."
            )


def is_hub_name(text: str) -> bool:
    """Return True for `<organisation>/<model>`, and False for an address or a path."""
    return _HUB_NAME.fullmatch(text) is not None and ".." not in text and "--" not in text


def hub_name(text: str) -> str:
    """Return a name of the hub as it is. Raises InvalidInput for what is none."""
    if not is_hub_name(text):
        raise InvalidInput("A model of the hub is named <organisation>/<model>.", ("model",))
    return text
