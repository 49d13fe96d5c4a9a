"""The readers of the binary versions of CIFAR: every byte in its place, every damage named in one line."""

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from small_cifar import SMALL, check_pixels, contents, one_line, pack, published, write_folder

from nenni_core.data import DATASETS, fingerprint, load_dataset
from nenni_core.data.cifar import CIFAR10, CIFAR100, CifarLayout, fingerprint_cifar, load_cifar
from nenni_core.errors import InputError


@pytest.fixture(params=SMALL)
def layout(request: pytest.FixtureRequest) -> CifarLayout:
    return SMALL[request.param]


# --- the official layouts --------------------------------------------------------------------------------


def test_official_layouts() -> None:
    """Sizes from the authors' page: 5 x 10,000 + 10,000 records of 3,073; 50,000 + 10,000 of 3,074 bytes."""
    sizes = {
        layout.name: {file.name: file.records * layout.record_bytes for file in layout.record_files}
        for layout in (CIFAR10, CIFAR100)
    }
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    assert sizes["cifar10"] == dict.fromkeys(batches, 30_730_000)
    assert sizes["cifar100"] == {"train.bin": 153_700_000, "test.bin": 30_740_000}
    for layout in (CIFAR10, CIFAR100):
        assert layout.archive.url.startswith("https://www.cs.toronto.edu/~kriz/")
        assert len(bytes.fromhex(layout.archive.md5)) == 16
        assert len(bytes.fromhex(layout.archive.sha256)) == 32
        assert fingerprint(layout.name) == layout.archive.sha256
        assert layout.name in DATASETS


# --- reading ---------------------------------------------------------------------------------------------


def test_folder_and_what_holds_it(layout: CifarLayout, tmp_path: Path) -> None:
    files = contents(layout)
    folder = write_folder(tmp_path, layout, files)
    check_pixels(layout, files, path=folder)
    check_pixels(layout, files, path=tmp_path)
    assert "local folder" in load_cifar(layout, path=folder, cache_dir=tmp_path).source


def test_archive_and_what_holds_it(layout: CifarLayout, tmp_path: Path) -> None:
    files = contents(layout)
    archive = pack(layout, files)
    layout = published(layout, archive)
    (tmp_path / layout.archive.name).write_bytes(archive)
    (tmp_path / "renamed.tgz").write_bytes(archive)
    for path in (tmp_path / layout.archive.name, tmp_path / "renamed.tgz", tmp_path):
        check_pixels(layout, files, path=path)
        assert fingerprint_cifar(layout, path=path) == layout.archive.sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([layout.archive.name, "renamed.tgz"])
    assert "official archive" in load_cifar(layout, path=tmp_path, cache_dir=tmp_path).source


def test_reading_reports_each_file(layout: CifarLayout, tmp_path: Path) -> None:
    write_folder(tmp_path, layout, contents(layout))
    steps: list[tuple[str, int, int]] = []
    load_cifar(layout, path=tmp_path, cache_dir=tmp_path, on_progress=lambda *step: steps.append(step))
    total = len(layout.file_names)
    assert steps == [(f"reading {layout.name}", i, total) for i in range(1, total + 1)]


def test_fingerprint_of_a_folder_sees_every_byte(layout: CifarLayout, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, layout, contents(layout))
    first = fingerprint_cifar(layout, path=folder)
    (folder / "readme.html").write_text("not part of the data")
    assert fingerprint_cifar(layout, path=tmp_path) == first
    for name in layout.file_names:
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        assert fingerprint_cifar(layout, path=folder) != first, name
        (folder / name).write_bytes(original)
    assert fingerprint_cifar(layout, path=folder) == first


# --- wrong local data ------------------------------------------------------------------------------------


def test_nothing_there(layout: CifarLayout, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty"):
        for function in (
            lambda p: load_cifar(layout, path=p, cache_dir=p),
            lambda p: fingerprint_cifar(layout, path=p),
        ):
            with pytest.raises(InputError, match="no data at") as caught:
                function(path)
            one_line(caught, str(path), layout.archive.name, layout.folder)


Damage = Callable[[CifarLayout, dict[str, bytes]], None]


def truncate(layout: CifarLayout, files: dict[str, bytes]) -> None:
    name = layout.test_files[0].name
    files[name] = files[name][:-1]


def lengthen(layout: CifarLayout, files: dict[str, bytes]) -> None:
    files[layout.train_files[0].name] += bytes(5000)


def drop_records(layout: CifarLayout, files: dict[str, bytes]) -> None:
    del files[layout.test_files[0].name]


def drop_names(layout: CifarLayout, files: dict[str, bytes]) -> None:
    del files[layout.names_file]


def wrong_label(layout: CifarLayout, files: dict[str, bytes]) -> None:
    name, header = layout.test_files[0].name, len(layout.label_classes)
    content = bytearray(files[name])
    content[2 * layout.record_bytes + header - 1] = layout.label_classes[-1]  # one too many, in record 2
    files[name] = bytes(content)


def wrong_first_label(layout: CifarLayout, files: dict[str, bytes]) -> None:
    """The coarse label of CIFAR-100 is checked although it is not used: it shows a shifted file."""
    name = layout.test_files[0].name
    content = bytearray(files[name])
    content[layout.record_bytes] = 200
    files[name] = bytes(content)


def too_few_names(layout: CifarLayout, files: dict[str, bytes]) -> None:
    files[layout.names_file] = b"airplane\nautomobile\n"


def no_text(layout: CifarLayout, files: dict[str, bytes]) -> None:
    files[layout.names_file] = b"\xff\xfe" * 50


def repeated_names(layout: CifarLayout, files: dict[str, bytes]) -> None:
    files[layout.names_file] = b"cat\n" * layout.label_classes[-1]


DAMAGES: list[tuple[Damage, str]] = [
    (truncate, r"has \d\d,\d\d\d bytes; expected 12,29\d \(4 records of 3,07\d\)"),
    (lengthen, r"has more than 21,5\d\d bytes; expected 21,5\d\d \(7 records"),
    (wrong_label, r"label 100? at index 2; expected 0 to 99?"),
    (wrong_first_label, r"label 200 at index 1; expected 0 to 1?9"),
    (too_few_names, "has 2 class names; expected 100?, one a line"),
    (no_text, "is not text; expected 100? class names"),
    (repeated_names, "expected two or more different ones"),
]


@pytest.mark.parametrize(
    ("damage", "message"),
    [*DAMAGES, (drop_records, "is missing; expected"), (drop_names, "is missing; expected")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_folder(layout: CifarLayout, damage: Damage, message: str, tmp_path: Path) -> None:
    files = contents(layout)
    damage(layout, files)
    write_folder(tmp_path, layout, files)
    with pytest.raises(InputError, match=message) as caught:
        load_cifar(layout, path=tmp_path, cache_dir=tmp_path)
    one_line(caught, layout.name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [*DAMAGES, (drop_records, "lacks cifar-.*expected it inside"), (drop_names, "lacks cifar-")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_archive_contents(layout: CifarLayout, damage: Damage, message: str, tmp_path: Path) -> None:
    """Even a published archive is not believed."""
    files = contents(layout)
    damage(layout, files)
    archive = pack(layout, files)
    (tmp_path / "a.tar.gz").write_bytes(archive)
    with pytest.raises(InputError, match=message) as caught:
        load_cifar(published(layout, archive), path=tmp_path / "a.tar.gz", cache_dir=tmp_path)
    one_line(caught, layout.name)


def test_archive_of_other_bytes(layout: CifarLayout, tmp_path: Path) -> None:
    archive = pack(layout, contents(layout))
    layout = published(layout, archive)
    flipped = archive[:100] + bytes([archive[100] ^ 1]) + archive[101:]
    path = tmp_path / layout.archive.name
    for content, found, expected in (
        (archive[:-10], f"{len(archive) - 10:,} bytes", f"expected {len(archive):,}"),
        (flipped, f"md5 {hashlib.md5(flipped).hexdigest()}", f"expected {layout.archive.md5}"),
    ):
        path.write_bytes(content)
        for function in (load_cifar, fingerprint_cifar):
            options = {"cache_dir": tmp_path} if function is load_cifar else {}
            with pytest.raises(InputError, match="is not the official") as caught:
                function(layout, path=path, **options)
            one_line(caught, str(path), found, expected, "unpacked folder", "accepted without checksums")


def test_md5_alone_is_not_enough(layout: CifarLayout, tmp_path: Path) -> None:
    archive = pack(layout, contents(layout))
    layout = published(layout, archive)
    forged = dataclasses.replace(layout.archive, sha256="0" * 64)
    (tmp_path / "a.tar.gz").write_bytes(archive)
    with pytest.raises(InputError, match=r"sha256 .*; expected 0000"):
        load_cifar(
            dataclasses.replace(layout, archive=forged), path=tmp_path / "a.tar.gz", cache_dir=tmp_path
        )


def test_hostile_members_touch_nothing(layout: CifarLayout, tmp_path: Path) -> None:
    """Paths that climb and links in the place of files are passed over."""
    files = contents(layout)
    outside = tmp_path / "outside.bin"
    outside.write_bytes(files[layout.test_files[0].name])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        climbing = tarfile.TarInfo("../../evil.bin")
        climbing.size = 4
        archive.addfile(climbing, io.BytesIO(b"evil"))
        link = tarfile.TarInfo(f"{layout.folder}/{layout.test_files[0].name}")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
        for name in layout.file_names:
            if name != layout.test_files[0].name:
                member = tarfile.TarInfo(f"./{layout.folder}/{name}")
                member.size = len(files[name])
                archive.addfile(member, io.BytesIO(files[name]))
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    (inside / "a.tar.gz").write_bytes(buffer.getvalue())
    layout = published(layout, buffer.getvalue())
    with pytest.raises(InputError, match=f"lacks {layout.folder}/{layout.test_files[0].name}"):
        load_cifar(layout, path=inside / "a.tar.gz", cache_dir=inside)
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {"outside.bin", "a/b/c/a.tar.gz"}


def test_unreadable_files_are_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path, CIFAR10, contents(SMALL["cifar10"]))

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    for function in (load_dataset, fingerprint):
        with pytest.raises(InputError, match=r"cifar10: cannot read '.*data_batch_1.bin': Permission denied"):
            function("cifar10", path=folder)
