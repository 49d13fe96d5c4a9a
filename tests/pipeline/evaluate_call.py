"""The command `python -m pipeline.evaluate` in this process, on a few digits and with short attacks."""

from typer.testing import CliRunner, Result

from pipeline.evaluate import app

IMAGES = 24
LIMITS = ("--device", "cpu", "--images", str(IMAGES), "--batch-size", "10", "--eps", "0.3", "--step-size")
LIMITS += ("0.1", "--steps", "3", "--queries", "20", "--eot-samples", "2")
ADAPTIVE = (*LIMITS, "--protocol", "adaptive")


def call(*arguments: str, dataset: str = "digits") -> Result:
    return CliRunner().invoke(app, [*arguments, "--dataset", dataset])
