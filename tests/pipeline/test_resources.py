"""What stages ask for: how it is written, what machines have, what is free."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nenni_core.errors import InputError
from pipeline.experiment import STAGES
from pipeline.resources import ON_GPU, Capacity, Request, parse_duration, parse_requests, requests


def test_requests_are_as_written() -> None:
    found = parse_requests(["attack=cpus:2,gpus:1/2", "pretrain=memory_gb:3.5", "attack=cpus:4"])
    assert found == {"attack": Request(cpus=4), "pretrain": Request(memory_gb=3.5)}
    assert parse_requests(["attack=cpus:2,gpus:1/2"])["attack"].for_ray() == {"cpu": 2, "gpu": 0.5}
    assert found["pretrain"].for_ray() == {"cpu": 1.0, "memory": 3.5e9}
    assert [Request(cpus=cpus).threads for cpus in (0.5, 1, 2.5, 4)] == [1, 1, 2, 4]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("atack=cpus:2", "unknown stage in --resources 'atack'; did you mean 'attack'?"),
        ("attack=cpu:2", "unknown resource in --resources 'cpu'; did you mean 'cpus'?"),
        ("attack=cpus", "'attack=cpus': expected a resource and an amount, such as cpus:2"),
        ("attack", "--resources 'attack': expected something like attack=cpus:2,gpus:0.5"),
        ("attack=", "expected something like"),
        ("attack=cpus:two", "expected a number such as 0.1 or 8/255, found 'two'"),
        ("attack=cpus:0", "cpus is 0; expected a number, more than 0"),
        ("attack=cpus:nan", "cpus is nan; expected a number, more than 0"),
        ("attack=gpus:inf", "gpus is inf; expected a number, 0 or more"),
        ("attack=memory_gb:-1", "memory_gb is -1; expected a number, 0 or more"),
        ("attack=gpus:1.5", "expected a part of one GPU, or a whole number of GPUs"),
    ],
)
def test_mistakes_are_named(text: str, expected: str) -> None:
    with pytest.raises(InputError) as mistake:
        parse_requests([text])
    assert expected in str(mistake.value)


def test_gpus_are_asked_for_where_there_are_any_and_nothing_else_was_said() -> None:
    given_ = parse_requests(["attack=cpus:4", "finetune=gpus:0"])
    without, with_ = requests(given_, gpus=0), requests(given_, gpus=2)
    assert set(without) == set(with_) == set(STAGES)
    assert {request.gpus for request in without.values()} == {0.0}
    usual = {stage: ON_GPU.get(stage, 0.0) for stage in STAGES}
    assert {stage: request.gpus for stage, request in with_.items()} == usual | {"finetune": 0.0}
    assert with_["attack"].cpus == without["attack"].cpus == 4


@given(st.integers(0, 2**32))
def test_what_is_free_is_what_there_is_less_what_was_taken(seed: int) -> None:
    draw = random.Random(seed)
    machines = [
        {"CPU": draw.randint(1, 8), "GPU": draw.randint(0, 2), "memory": 1e9 * draw.randint(1, 9)}
        for _ in "ab"
    ]
    capacity = Capacity(machines)
    assert (capacity.cores, capacity.gpus) == tuple(sum(m[name] for m in machines) for name in ("CPU", "GPU"))
    taken: list[Request] = []
    for _ in range(30):
        request = Request(
            cpus=draw.choice([0.5, 1, 3]), gpus=draw.choice([0, 0.5, 1]), memory_gb=draw.choice([0, 0.1, 2])
        )
        after = [*taken, request]
        fits = (
            sum(r.cpus for r in after) <= capacity.cores + 1e-6
            and (not request.gpus or sum(r.gpus for r in after) <= capacity.gpus + 1e-6)
            and (
                not request.memory_gb
                or sum(r.memory_gb for r in after) * 1e9 <= sum(m["memory"] for m in machines) + 1
            )
        )
        assert capacity.fits(request) == fits
        if fits:
            capacity.take(request)
            taken = after
        elif taken:
            capacity.give(taken.pop(draw.randrange(len(taken))))


def test_what_no_machine_has_is_refused() -> None:
    capacity = Capacity([{"CPU": 2.0, "memory": 4e9}, {"CPU": 4.0, "GPU": 1.0, "memory": 8e9}])
    capacity.check("attack", Request(cpus=4, gpus=1))
    with pytest.raises(
        InputError, match=r"'attack' asks for 6 CPU; .* 2 CPU, 0 GPU, 4.0 GB of memory; 4 CPU"
    ):
        capacity.check("attack", Request(cpus=6))  # on two machines there would be as many
    with pytest.raises(InputError, match="1 CPU, 2 GPU"):
        capacity.check("attack", Request(gpus=2))
    with pytest.raises(InputError, match="what one machine has: none"):
        Capacity([]).check("attack", Request())
    capacity.update([{"CPU": 8.0}])
    capacity.check("attack", Request(cpus=6))


@given(st.integers(1, 10**6), st.sampled_from(["s", "min", "h", "d"]))
def test_durations_are_seconds(number: int, unit: str) -> None:
    assert parse_duration(f"{number}{unit}") == number * {"s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
    assert parse_duration(str(number)) == number


@pytest.mark.parametrize("text", ["", "0", "-3", "2 weeks", "h", "nan", "1e3", "2H"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(InputError, match="is no duration; expected something like 90s, 30min or 2h"):
        parse_duration(text)
