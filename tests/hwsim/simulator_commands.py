"""Calling `python -m hwsim` in this process, and what it is called with."""

from pathlib import Path

import numpy as np
from click.testing import Result
from typer.testing import CliRunner

from hwsim.command_line import app
from hwsim.layers import load_network
from hwsim.masks import random_mask, save_masks
from hwsim.technology import load_technology

SMALL = load_network("small_resnet")
NANGATE = load_technology("nangate45")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def successful(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def masks_of_two_images(folder: Path) -> Path:
    """Masks of two images, as the pipeline saves them."""
    rng = np.random.default_rng(0)
    path = folder / "masks.safetensors"
    masks = {layer.name: random_mask(layer, rng, ratio=0.8, images=2) for layer in SMALL}
    save_masks(path, masks, images=2, about={"noise": "80%", "noisy_share": "0.8"})
    return path


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path
