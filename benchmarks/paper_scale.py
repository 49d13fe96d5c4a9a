"""The paper's chain for ResNet-18 on CIFAR-10 on one GPU, in slices of a few minutes.

    python -m benchmarks.paper_scale --data DIR --out OUT --minutes 8

Adversarial pre-training with PGD-10, distillation, fine-tuning of 90%, 99% and 7:8 with both losses, and the
attacks on the dense network and on each variant. It stops when the minutes are over; the same command goes on
where it stopped. One line is printed for each finished stage. `--rehearse` goes through all of it with a
small network, two epochs and few images: a CPU needs minutes. It needs PyTorch, NumPy, safetensors and
jaxtyping, and torchattacks and pyautoattack for the attacks that come from them.

`python -m pipeline.store import OUT` makes entries of the pipeline's store, and tracked runs, of the results.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.chain_plan import PROTOCOLS, Chain, paper_chain, rehearsal
from benchmarks.chain_run import Done, device_name, run_chain
from benchmarks.chain_work import expected_counts, image_counts, network_macs, stage_flop, working_seconds
from benchmarks.gpu_peaks import bf16_peak
from benchmarks.options import Parser, count, seed
from nenni_core.attacks import counts_in_worst_case
from nenni_core.chain.runtime import Runtime
from nenni_core.chain.speed import TIMING
from nenni_core.data import dataset_extent, fingerprint
from nenni_core.device import choose_device, configure_torch
from nenni_core.errors import InputError, TrainingDiverged
from nenni_core.files import read_json, write_json
from nenni_core.progress import Deadline, OutOfTime
from nenni_core.training import PRECISIONS
from pipeline.locks import locked_file
from pipeline.provenance import Commit, assume_commit

PARAMETERS = "params.json"
UNFINISHED = 75
"""Exit status when the time is over before the chain is finished ("try again", sysexits.h)."""


def line(done: Done, macs: int, counts: dict[str, int]) -> str:
    """What one finished stage was like: accuracy, seconds, images a second, share of the peak, memory."""
    step, record = done.step, done.record
    timing = read_json(done.folder / TIMING) if (done.folder / TIMING).is_file() else {}
    metrics = dict(record.metrics)
    if step.stage == "attack" and not any(counts_in_worst_case(spec) for spec in step.settings.attacks):
        metrics.pop("accuracy/worst_case", None)  # it would be the clean accuracy
    parts = [f"{step.stage} {step.label}".rstrip(), *_accuracy(metrics), f"{record.seconds:.1f} s"]
    seconds = working_seconds(timing)
    if (rate := timing.get("images_per_second")) is not None:
        parts.append(f"{rate:.0f} images/s")
    else:
        parts += _attack_rate(timing)
    flop = stage_flop(step, macs, counts, record.metrics)
    if flop is not None and seconds > 0:
        parts.append(f"{flop:.2g} FLOP, {flop / seconds / 1e12:.3g} TFLOP/s")
        if record.device == "cuda":
            peak = bf16_peak(record.device_name)
            known = f"{100 * flop / seconds / peak:.1f}%" if peak else ""
            share = known or f"unknown ({record.device_name!r} is not in benchmarks/gpu_peaks.py)"
            parts.append(f"share of the bf16 peak {share}")
    if "peak_memory_bytes" in timing:
        parts.append(f"peak memory {timing['peak_memory_bytes'] / 1e9:.2f} GB")
    return "; ".join(parts)


def _attack_rate(timing: Mapping[str, Any]) -> list[str]:
    """How fast PGD-20 was, or else the first attack."""
    prefix = "images_per_second/"
    rates = {name.removeprefix(prefix): rate for name, rate in timing.items() if name.startswith(prefix)}
    for name in ("pgd20", *rates):
        if name in rates and name not in ("clean", "worst_case"):
            digits = 0 if rates[name] >= 10 else 2  # CW can take seconds for an image
            return [f"{'PGD-20' if name == 'pgd20' else name} {rates[name]:.{digits}f} images/s"]
    return []


def _accuracy(metrics: dict[str, float | int]) -> list[str]:
    """The accuracies of a stage, in percent."""
    shown = {
        "best_validation_clean_accuracy": "validation clean",
        "best_validation_robust_accuracy": "PGD",
        "mean_top_k_recall": "top-K recall",
        "accuracy/clean": "clean",
        "accuracy/pgd20": "PGD-20",
        "accuracy/worst_case": "worst case",
    }
    found = [f"{text} {100 * metrics[name]:.2f}%" for name, text in shown.items() if name in metrics]
    return [", ".join(found)] if found else []


def options() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="CIFAR-10, binary version: folder or official archive"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=minutes, default=8.0, help="of this call (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, choices=(30, 200), default=30, help="30: one cycle; 200: the paper's steps"
    )
    parser.add_argument("--images", type=count, default=1000, help="attacked test images (default: 1000)")
    parser.add_argument("--attacks", choices=PROTOCOLS, default="both", help="(default: %(default)s)")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="bfloat16", help="of training")
    parser.add_argument("--seed", type=seed, default=0, help="of all but the split (default: 0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ..., or auto")
    parser.add_argument("--threads", type=count, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--compile", action="store_true", help="torch.compile for the dense training")
    parser.add_argument("--rehearse", action="store_true", help="the same chain in minutes on a CPU")
    parser.add_argument("--commit", default="", help="where the code is from, if it is a copy without git")
    return parser


def minutes(text: str) -> float:
    """A time above 0; `argparse.ArgumentTypeError` for anything else."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected minutes above 0, found {text!r}")
    return number


def run(arguments: argparse.Namespace) -> int:
    """One slice; the exit status. Raises `InputError`."""
    deadline = Deadline(60 * arguments.minutes)
    device = choose_device(arguments.device)
    configure_torch(arguments.threads, device)
    if arguments.commit:
        assume_commit(Commit(arguments.commit, False))
    chain = paper_chain(
        epochs=arguments.epochs,
        images=arguments.images,
        attacks=arguments.attacks,
        precision=arguments.precision,
        seed=arguments.seed,
    )
    if arguments.rehearse:
        chain = rehearsal(chain)
    there = expected_counts(chain.prepare)[chain.attack.split]
    if chain.attack.images is not None and chain.attack.images > there:
        raise InputError(f"--images is {chain.attack.images}; expected 1 to {there}, as many as there are")
    data_fingerprint = fingerprint(chain.prepare.dataset, path=arguments.data)
    runtime = Runtime(device=device, data_path=arguments.data, compile=arguments.compile)

    def refuse() -> None:
        raise InputError(
            f"another process works in {str(arguments.out)!r}; expected one at a time, or another --out"
        )

    with locked_file(arguments.out / "lock", on_busy=refuse):
        described = chain.parameters(str(arguments.data))
        if changed := changes(arguments.out / PARAMETERS, described):
            say(f"other settings than in the last call: {changed}; what it has finished stays")
            say(f"{PARAMETERS}, and with it the import, is of these settings from now on")
        write_json(arguments.out / PARAMETERS, described)
        return compute(chain, arguments.out, data_fingerprint, runtime, deadline)


def changes(path: Path, described: Mapping[str, Any]) -> str:
    """The names of what the parameter file at `path`, if there is one, says otherwise.

    Where the data is does not count.
    """
    try:
        before, now = _settings(read_json(path)), _settings(described)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or of somebody else
        return ""
    return ", ".join(sorted(name for name in before | now if before.get(name) != now.get(name)))


def _settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """By section and name."""
    found: dict[str, Any] = {"seed": parameters["seed"]}
    for section in ("prepare", "pretrain", "distill", "finetune", "attack"):
        found |= {f"{section}.{name}": value for name, value in parameters[section].items()}
    found.pop("prepare.path", None)
    return found


def compute(chain: Chain, out: Path, data_fingerprint: str, runtime: Runtime, deadline: Deadline) -> int:
    """Compute and print what the time is enough for; the exit status."""
    macs = network_macs(chain.pretrain.architecture, dataset_extent(chain.prepare.dataset))
    counts = expected_counts(chain.prepare)
    say(f"{device_name(runtime.device)}, {macs / 1e9:.3g} GMAC a forward pass of one image")
    for step in chain.steps():
        if (flop := stage_flop(step, macs, counts)) is not None:
            say(f"  about {flop:.2g} FLOP: {step.stage} {step.label}".rstrip())
    state, before = {"at": "nothing yet"}, _kept(out)

    def progress(description: str, completed: int, total: int) -> None:
        state["at"] = f"{description}, {completed} of {total}"

    def on_done(done: Done, computed: bool) -> None:
        if done.step.stage == "prepare":
            counts.update(image_counts(done.folder))
        say(("" if computed else "[earlier] ") + line(done, macs, counts))

    try:
        done = run_chain(
            chain,
            out,
            data_fingerprint=data_fingerprint,
            runtime=replace(runtime, progress=progress),
            deadline=deadline,
            on_done=on_done,
        )
    except OutOfTime:
        say(f"the time is over at {state['at']}; the same command goes on from the last checkpoint")
        if _kept(out) == before:
            say("nothing of this call is kept; expected more --minutes: an epoch has to end within one call")
        return UNFINISHED
    say(f"finished: {len(done)} stages in {str(out)!r}")
    return 0


def _kept(out: Path) -> set[tuple[Path, int]]:
    """All results and checkpoints, as they are now."""
    return {(path, path.stat().st_mtime_ns) for path in out.rglob("*.safetensors")}


def say(text: str) -> None:
    """A line that is there at once, also in a file."""
    print(text, flush=True)


def main() -> None:
    """Run the command line; status 2 for what cannot be, 1 for a training that diverged."""
    arguments = options().parse_args()
    try:
        status = run(arguments)
    except (InputError, TrainingDiverged) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2 if isinstance(error, InputError) else 1
    except OSError as error:
        where = f"{str(error.filename)!r}: " if error.filename else ""  # a full disk comes without a name
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
