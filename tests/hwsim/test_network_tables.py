"""Layers: derived figures, tables of networks, shapes traced from models, and every wrong line."""

from dataclasses import asdict
from math import ceil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hwsim.errors import InputError
from hwsim.layers import Layer, load_network, network_names, save_network
from nenni_core import Injection, inject
from nenni_core.errors import InputError as CoreInputError
from nenni_core.models import build_model
from nenni_core.shapes import layer_shapes

SIZES = {
    "in_channels": 6, "out_channels": 8, "kernel_height": 3, "kernel_width": 2, "in_height": 9, "in_width": 7,
    "out_height": 5, "out_width": 4,
}  # fmt: skip
HEADING = "name," + ",".join(SIZES)
LINE = "conv," + ",".join(map(str, SIZES.values()))


def test_figures_by_hand() -> None:
    layer = Layer(name="conv", groups=2, **SIZES)
    assert layer.inputs_per_output == 3 * 3 * 2
    assert layer.outputs_per_group == 4
    assert layer.positions == 20
    assert layer.macs == 20 * 8 * 18
    assert layer.input_values == 6 * 9 * 7
    assert layer.output_values == 20 * 8
    assert layer.rank == 5  # 18 / 4, rounded up
    assert layer.projection_nonzeros == 30  # 5 * 18 / 3


def test_a_layer_may_have_a_rank_of_its_own() -> None:
    assert Layer(name="conv", rank=3, **SIZES).rank == 3
    tiny = Layer(name="conv", **dict.fromkeys(SIZES, 1))
    assert (tiny.rank, tiny.projection_nonzeros) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"in_channels": 0}, "layer 'conv': in_channels is 0; expected a count from 1 to 1000000"),
        ({"out_width": -3}, "layer 'conv': out_width is -3; expected a count from 1 to 1000000"),
        ({"groups": 0}, "layer 'conv': groups is 0; expected a count from 1 to 1000000"),
        ({"rank": -1}, "layer 'conv': rank is -1; expected a count from 0 to 10{12}"),
        ({"out_width": 10**23}, "layer 'conv': out_width is 10{23}; expected a count from 1 to 1000000"),
        ({"groups": 4}, "layer 'conv': in_channels 6 does not divide into 4 groups"),
        ({"groups": 3}, "layer 'conv': out_channels 8 does not divide into 3 groups"),
    ],
)
def test_impossible_layers(changes: dict[str, int], expected: str) -> None:
    with pytest.raises(InputError, match=f"^{expected}$"):
        Layer(name="conv", **SIZES | changes)


# --- tables ----------------------------------------------------------------------------------------------


@st.composite
def layers(draw: st.DrawFn) -> tuple[Layer, ...]:
    names = draw(
        st.lists(st.text(min_size=0, max_size=8).filter(str.isprintable), min_size=1, max_size=4, unique=True)
    )
    count = st.integers(1, 10_000)
    found = []
    for name in names:
        groups = draw(st.integers(1, 5))
        sizes = {key: draw(count) for key in SIZES}
        sizes["in_channels"] *= groups
        sizes["out_channels"] *= groups
        found.append(Layer(name=name, groups=groups, rank=draw(st.integers(0, 99)), **sizes))
    return tuple(found)


@settings(max_examples=50, deadline=None)
@given(network=layers())
def test_tables_come_back(network: tuple[Layer, ...], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("tables") / "network.csv"
    save_network(network, path)
    assert load_network(path) == load_network(str(path)) == network


def test_groups_and_rank_may_be_missing_or_empty(tmp_path: Path) -> None:
    expected = (Layer(name="conv", groups=1, rank=9, **SIZES),)
    for heading, line in (
        (HEADING, LINE),
        (f"{HEADING},rank,groups", f"{LINE},,"),
        (f"{HEADING},groups", f"{LINE},1"),
    ):
        path = tmp_path / "network.csv"
        path.write_text(f"{heading}\n{line}\n")
        assert load_network(path) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": missing column 'name'; found: nothing"),
        (f"{HEADING}\n", ": has no layers; expected one line for each after the heading"),
        (HEADING.replace(",in_width", "") + "\n", ": missing column 'in_width'; found: name, in_channels"),
        (f"{HEADING},gruops\n", r": unknown column 'gruops'; did you mean 'groups'\?"),
        (f"{HEADING}\n{LINE}\n{LINE}\n", ": 2 layers are called 'conv'; expected different names"),
        (f"{HEADING}\n{LINE[:-2]}\n", ", line 2: out_width is None; expected a whole number"),
        (f"{HEADING}\n{LINE}\n{LINE.replace('conv', 'b').replace('9', 'nine')}\n",
         ", line 3: in_height is 'nine'; expected a whole number"),
        (f"{HEADING}\n{LINE.replace('9', '2.5')}\n", r", line 2: in_height is '2\.5'; expected a whole"),
        (f"{HEADING}\n{LINE.replace('9', '-9')}\n", ", line 2: in_height is '-9'; expected a whole number"),
        (f"{HEADING}\n{LINE.replace('9', '0')}\n", ", line 2: layer 'conv': in_height is 0; expected"),
        (f"{HEADING}\n{LINE},7\n", ", line 2: has more values than columns; expected 9"),
        (f"{HEADING},rank,rank\n{LINE},7,8\n", ": column 'rank' is there 2 times; expected once"),
    ],
)  # fmt: skip
def test_wrong_tables(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "network.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"network.csv{expected}") as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


def test_unknown_networks_and_files(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"unknown network 'resnet81'; did you mean 'resnet18'\?.*\.csv file"
    ):
        load_network("resnet81")
    for path in (tmp_path / "absent.csv", str(tmp_path / "absent.csv")):
        with pytest.raises(InputError, match=r"absent\.csv' is not a file; expected a table of layers"):
            load_network(path)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "network.csv"
    for content in (b"\xff\xfe\x00name", b"x" * 200_000):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"network\.csv: not a table of layers \(\.csv\): "):
            load_network(path)


def test_a_table_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "network.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADING}\r\n{LINE}\r\n".encode())
    assert load_network(path) == (Layer(name="conv", **SIZES),)


# --- shapes of models ------------------------------------------------------------------------------------


def traced(model: nn.Module, shape: tuple[int, int, int]) -> tuple[Layer, ...]:
    return tuple(Layer(**asdict(one)) for one in layer_shapes(model.eval(), shape))


@pytest.mark.parametrize("name", network_names())
def test_shipped_networks_are_the_models(name: str) -> None:
    model = build_model(name, num_classes=10)
    assert traced(model, (3, 32, 32)) == load_network(name)
    if name != "wrn34_10":  # which takes seconds to inject
        assert traced(inject(model, Injection()), (3, 32, 32)) == load_network(name)


def test_convolutions_of_every_kind_in_the_order_they_run() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Conv2d(8, 4, (1, 3), stride=2, groups=4)
            self.first = nn.Conv2d(6, 8, (3, 2), dilation=2, padding=(2, 0), groups=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    first, last = traced(Backwards(), (6, 10, 9))
    assert first == Layer(name="first", in_channels=6, out_channels=8, kernel_height=3, kernel_width=2,
                          in_height=10, in_width=9, out_height=10, out_width=7, groups=2, rank=5)  # fmt: skip
    assert last == Layer(name="last", in_channels=8, out_channels=4, kernel_height=1, kernel_width=3,
                         in_height=10, in_width=7, out_height=5, out_width=3, groups=4, rank=2)  # fmt: skip


def test_linear_layers_count_where_they_are_injected() -> None:
    """As 1 x 1 convolutions of a column of positions; a plain one is no work of this accelerator."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Linear(16, 10), nn.Flatten(), nn.Linear(40, 5)
    )
    assert [one.name for one in traced(model, (3, 6, 6))] == ["0"]
    noisy = inject(model, Injection(projection_ratio=0.5), linear=True)
    _, middle, last = traced(noisy, (3, 6, 6))
    assert middle == Layer(name="2", in_channels=16, out_channels=10, kernel_height=1, kernel_width=1,
                           in_height=4, in_width=1, out_height=4, out_width=1, rank=8)  # fmt: skip
    assert (last.positions, last.inputs_per_output, last.out_channels, last.rank) == (1, 40, 5, 20)


def test_ranks_follow_the_ratio_of_the_model_or_the_one_given() -> None:
    plain = nn.Conv2d(4, 8, 3)
    assert [layer_shapes(plain, (4, 5, 5), ratio)[0].rank for ratio in (0.25, 0.07, 1.0)] == [9, 3, 36]
    noisy = inject(plain, Injection(projection_ratio=0.5))
    assert layer_shapes(noisy, (4, 5, 5), 0.25)[0].rank == 18


def test_a_module_that_runs_twice_is_two_layers() -> None:
    shared = nn.Conv2d(3, 3, 3, stride=2)
    found = traced(nn.Sequential(shared, nn.ReLU(), shared), (3, 15, 15))
    assert [(one.name, one.out_height) for one in found] == [("0", 7), ("0#2", 3)]


def test_looking_changes_nothing_and_models_without_layers_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    layer_shapes(model, (3, 8, 8))
    assert model[1].num_batches_tracked == 0
    assert model.training
    assert not model[0]._forward_hooks
    with pytest.raises(CoreInputError, match=r"Flatten has no nn\.Conv2d layer to simulate"):
        layer_shapes(nn.Flatten(), (3, 8, 8))


def test_shapes_are_those_of_the_outputs() -> None:
    model = build_model("small_resnet", num_classes=10).eval()
    outputs = dict[str, tuple[int, ...]]()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, y, name=name: outputs.update({name: tuple(y.shape)}))
    model(torch.zeros(1, 3, 32, 32))
    for one in load_network("small_resnet"):
        assert outputs[one.name] == (1, one.out_channels, one.out_height, one.out_width)
        assert one.rank == ceil(model.get_submodule(one.name).weight[0].numel() / 4)
