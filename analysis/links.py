"""Where a browser finds what MLflow shows of a run."""

from collections.abc import Callable

from analysis.runs import Parent
from nenni_core.errors import InputError
from pipeline.remote_files import without_secrets

Link = Callable[[str], str]
"""The address of the page of a run, by its id."""
LOCAL_UI = "http://127.0.0.1:5000"
"""Where `make ui` serves the runs that are tracked in a file."""


def links(parent: Parent, ui: str | None = None) -> Link | None:
    """Addresses of the runs of one experiment; None if there are to be none.

    `ui` is where MLflow's pages are: by default the tracking server, without its password, or for a file
    `LOCAL_UI`; "" for no links. Raises `InputError` for anything else that is no address of a web page.
    """
    if ui is None:
        is_served = parent.tracking_uri.startswith(("http://", "https://"))
        ui = without_secrets(parent.tracking_uri) if is_served else LOCAL_UI
    if not ui:
        return None
    if not ui.startswith(("http://", "https://")):
        raise InputError(f"--ui {ui!r}: expected an address that begins with http:// or https://, or ''")
    return lambda run_id: f"{ui.rstrip('/')}/#/experiments/{parent.experiment_id}/runs/{run_id}"
