"""Claims on operations, time and energy, and the evidence for and against them."""

from collections.abc import Iterator

from analysis.figures.hardware_over_noise import simulated
from analysis.findings import Claim, Evidence, Tracked
from analysis.names import percent, reduction
from analysis.networks import Measured, Network
from analysis.paper import printed_reduction

TOLERANCE = 0.01
"""Of a reduction; the paper prints operations with three digits."""
SIMILAR = 0.10
"""How far two energies may be apart to be called similar."""
TIME, ENERGY, PRODUCT = "seconds_over_dense", "joules_over_dense", "energy_delay_joule_seconds_over_dense"
EFFICIENCY = "operations_per_joule_over_dense"
WORDS = {TIME: "time", ENERGY: "energy", PRODUCT: "energy x time", EFFICIENCY: "operations per joule"}


def bitops_as_printed(tracked: Tracked) -> list[Evidence]:
    """The nominal reduction of every network for whose ratio or pattern the paper prints one."""
    found = {}
    for network in tracked.networks:
        ratio, pattern = network.identity["ratio"], network.identity["pattern"]
        if network.is_dense or network.cost is None or not network.is_plain:
            continue
        printed = printed_reduction(network.identity["model"], ratio, pattern)
        rule = pattern or (f"{100 * ratio:g}%" if ratio else None)
        if printed is None or rule is None or (network.subject, rule) in found:
            continue
        ours = 1 - network.cost
        found[network.subject, rule] = Evidence(
            subject=f"{network.subject}, {rule}, beside {printed.network} (table {printed.table})",
            numbers=f"{reduction(ours)} against {reduction(printed.reduction)} printed: apart by "
            f"{percent(abs(ours - printed.reduction))} points",
            sign=1 if abs(ours - printed.reduction) <= TOLERANCE else -1,
            basis="counted, not measured",
            run_ids=(network.runs[0]["run_id"],),
        )
    return list(found.values())


def noise_alone_saves(tracked: Tracked) -> list[Evidence]:
    """Time and energy of ratios on the core for any mask, with masks of real images, against dense."""
    found = []
    for network in _simulated(tracked):
        if network.identity["pattern"]:
            continue
        for metric in (TIME, ENERGY):
            number = network.metric(f"{metric}/unstructured/measured")
            if number:
                found.append(_evidence(f"{network.title}, {WORDS[metric]}", number, 1.0, "the dense network"))
    return found


def structure_is_faster(tracked: Tracked) -> list[Evidence]:
    """Time of a pattern on the core that is made for it against the core for any mask."""
    return _cores(tracked, TIME)


def structure_has_a_lower_product(tracked: Tracked) -> list[Evidence]:
    """Energy x time of a pattern on the core that is made for it against the core for any mask."""
    return _cores(tracked, PRODUCT)


def structure_takes_similar_energy(tracked: Tracked) -> list[Evidence]:
    """Energy of a pattern on the core that is made for it against the core for any mask."""
    found = []
    for network, structured, unstructured in _pairs(tracked, ENERGY):
        quotient = structured.value / unstructured.value
        found.append(
            Evidence(
                subject=f"{network.title}, energy, structured against unstructured core",
                numbers=f"{structured.value:.3f} against {unstructured.value:.3f} of dense: "
                f"{quotient - 1:+.1%}",
                sign=1 if abs(quotient - 1) <= SIMILAR else -1,
                basis=_basis(network),
                run_ids=structured.run_ids,
            )
        )
    return found


def real_masks_cost_what_random_ones_do(tracked: Tracked) -> list[Evidence]:
    """Time with masks of real images against random ones, on the core for any mask."""
    found = []
    for network in _simulated(tracked):
        real = network.metric(f"{TIME}/unstructured/measured")
        random = network.metric(f"{TIME}/unstructured/random")
        if real and random:
            quotient = real.value / random.value
            found.append(
                Evidence(
                    subject=f"{network.title}, time, real against random masks",
                    numbers=f"{real.value:.3f} against {random.value:.3f} of dense: {quotient - 1:+.1%}",
                    sign=1 if abs(quotient - 1) <= SIMILAR else -1,
                    basis=_basis(network),
                    run_ids=real.run_ids,
                )
            )
    return found


def _cores(tracked: Tracked, metric: str) -> list[Evidence]:
    return [
        _evidence(
            f"{network.title}, {WORDS[metric]}", structured, unstructured.value, "the core for any mask"
        )
        for network, structured, unstructured in _pairs(tracked, metric)
    ]


def _pairs(tracked: Tracked, metric: str) -> Iterator[tuple[Network, Measured, Measured]]:
    for network in _simulated(tracked):
        structured = network.metric(f"{metric}/structured/measured")
        unstructured = network.metric(f"{metric}/unstructured/measured")
        if network.identity["pattern"] and structured and unstructured:
            yield network, structured, unstructured


def _simulated(tracked: Tracked) -> Iterator[Network]:
    for own in simulated(tracked.runs).values():
        yield from (one for one in own if one.identity["target"] in (None, "non_essential"))


def _evidence(subject: str, number: Measured, reference: float, name: str) -> Evidence:
    """Less than `reference` is for the claim; where there are several seeds, by the whole interval."""
    low, high = number.interval
    return Evidence(
        subject=f"{subject}, against {name}",
        numbers=f"{number.value:.3f} against {reference:.3f} of dense"
        + (f" (95% interval {low:.3f} to {high:.3f})" if number.seeds > 1 else ""),
        sign=1 if high < reference else -1 if low > reference else 0,
        basis=f"simulated, {number.seeds} seed{'s' * (number.seeds > 1)}",
        run_ids=number.run_ids,
    )


def _basis(network: Network) -> str:
    count = len(network.runs)
    return f"simulated, masks of {network.runs[0]['images']} images, {count} seed{'s' * (count > 1)}"


FIGURE5 = ("figure5", "small-figure5")
SOURCE = "the paper, appendix C, figure 5"
CLAIMS = (
    Claim(
        title="BitOPs fall as printed",
        text="90% noise saves 82.6% of the dense network's BitOPs, 99% saves 91.6%, patterns what table 4 "
        "prints.",
        source="the paper, tables 1, 2 and 4",
        rule=f"for it where ours is within {percent(TOLERANCE, 0)} point of the printed reduction; "
        f"ResNet-18's "
        "stands beside networks that the paper has not.",
        needs="network with a ratio or a pattern that the paper prints",
        grids=("table1", "small-table1"),
        gather=bitops_as_printed,
    ),
    Claim(
        title="Noise alone saves time and energy",
        text="unstructured noise makes the accelerator faster and saves energy.",
        source=SOURCE,
        rule="for it where time (or energy) with the masks of real images is below that of the dense "
        "network.",
        needs="simulation of a network with a ratio",
        grids=FIGURE5,
        gather=noise_alone_saves,
    ),
    Claim(
        title="Structure is faster than unstructured noise",
        text="patterns take less time on the core that is made for them than as much noise without "
        "structure.",
        source=SOURCE,
        rule="for it where the time of a pattern on the structured core is below that on the unstructured "
        "one.",
        needs="simulation of a network with a pattern on both cores",
        grids=FIGURE5,
        gather=structure_is_faster,
    ),
    Claim(
        title="Structure lowers the product of energy and time",
        text="with structure the product of energy and time is lower than without.",
        source=SOURCE,
        rule="for it where the product of a pattern on the structured core is below that on the "
        "unstructured one.",
        needs="simulation of a network with a pattern on both cores",
        grids=FIGURE5,
        gather=structure_has_a_lower_product,
    ),
    Claim(
        title="Structure takes similar energy",
        text="the energy with structure is similar to that without at the same amount of noise.",
        source=SOURCE,
        rule=f"for it where the two are within {percent(SIMILAR, 0)}% of each other.",
        needs="simulation of a network with a pattern on both cores",
        grids=FIGURE5,
        gather=structure_takes_similar_energy,
    ),
    Claim(
        title="Random masks stand for real ones",
        text="a simulation with random masks says what real ones cost.",
        source="an assumption that figure 5 leaves open",
        rule=f"for it where the times on the core for any mask are within {percent(SIMILAR, 0)}% of each "
        f"other.",
        needs="simulation of a network with noise, with both kinds of masks",
        grids=FIGURE5,
        gather=real_masks_cost_what_random_ones_do,
    ),
)
