"""A tiny CLIP that is trained once, for tests of the check before a run; where code that comes with checkpoints is copied to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
from safetensors.torch import load_file

from tests.models.trained_model import write_as_transformers, write_trained_model


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny CLIP that knows the pictures, as open_clip and as transformers keep it."""
    place = tmp_path_factory.mktemp("trained")
    write_trained_model(place / "open_clip")
    weights = load_file(place / "open_clip" / "open_clip_model.safetensors")
    return place / "open_clip", write_as_transformers(weights, place / "transformers")


@pytest.fixture
def model(folders: tuple[Path, Path]) -> Any:
    return open_clip.create_model(f"local-dir:{folders[0]}")


@pytest.fixture
def tokenizer(folders: tuple[Path, Path]) -> Any:
    return open_clip.get_tokenizer(f"local-dir:{folders[0]}")


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where transformers puts a copy of the code; one for all tests, since it is a package that is imported once."""
    return str(tmp_path_factory.mktemp("modules"))
