"""``run.json``: what is refused, and how methods and protocols join a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.edit import MethodSpec
from bench.store import RunStore, StoreError
from tests.bench.store.records import INFO, SPEC, configure, edited


def test_another_format_is_refused(tmp_path: Path) -> None:
    RunStore.open(tmp_path / "run", create=True).close()
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(StoreError, match="format 99; this version reads format 1"):
        RunStore.open(tmp_path / "run")
    path.write_text("{")
    with pytest.raises(StoreError, match=r"run\.json: cannot be read"):
        RunStore.open(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: [manifest], "it is no manifest of a run"),
        (lambda manifest: {}, "it is no manifest of a run"),
        (lambda manifest: {**manifest, "seed": "0"}, "seed: of a wrong type"),
        (lambda manifest: {**manifest, "suite": []}, "suite: of a wrong type"),
        (lambda manifest: {**manifest, "protocols": []}, "its protocols are missing"),
        (
            lambda manifest: {**manifest, "protocols": {"fakes": {}}},
            "protocols: fakes: digest, version: missing",
        ),
        (lambda manifest: {**manifest, "methods": {"x": "fake"}}, "methods: x: of a wrong type"),
        (
            lambda manifest: {**manifest, "methods": {"x": {"name": 1, "label": "", "options": {}}}},
            "methods: x: devices, dtype, name: missing or of a wrong type",
        ),
    ],
)
def test_a_manifest_of_another_shape_is_one_error(store: RunStore, change: Any, message: str) -> None:
    configure(store)
    path = store.path / "run.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(StoreError) as caught:
        RunStore.open(store.path)
    assert f"run.json: cannot be read ({message}" in str(caught.value)


def test_methods_and_protocols_join_a_run(store: RunStore) -> None:
    configure(store)
    # Another method and another protocol, on another device.
    other = MethodSpec("fake", {"strength": 0.5})
    configure(store, methods=[other], protocols={"others": {**INFO, "name": "others"}}, device="cuda")
    again = RunStore.open(store.path)
    assert list(again.methods.values()) == [SPEC, other]
    assert list(again.manifest["protocols"]) == ["fakes", "others"]
    # A method keeps the devices that it edited on, and gains new ones.
    assert again.manifest["methods"][SPEC.digest]["devices"] == ["cpu"]
    configure(store, device="cuda")
    assert store.manifest["methods"][SPEC.digest]["devices"] == ["cpu", "cuda"]


def test_a_run_from_before_printed_names_is_read(store: RunStore) -> None:
    spec = MethodSpec("fake", {}, "Fake", "Ours", "a2026", "mask-free")
    store.configure(protocols={}, methods=[spec])
    assert store.methods[spec.digest] == spec
    # Take away what earlier versions did not write.
    old = json.loads((store.path / "run.json").read_text())
    for key in ("display", "cite", "group"):
        del old["methods"][spec.digest][key]
    (store.path / "run.json").write_text(json.dumps(old))
    assert RunStore.open(store.path).methods[spec.digest] == MethodSpec("fake", {}, "Fake")


def test_a_run_from_before_controls_were_declared_knows_them_by_their_names(store: RunStore) -> None:
    specs = [
        MethodSpec("copy_input", is_control=True),
        MethodSpec("lama"),
        MethodSpec("own", is_control=True),
    ]
    store.configure(protocols={}, methods=specs)
    assert [spec.is_control for spec in store.methods.values()] == [True, False, True]
    # Take away what earlier versions did not write. Then only the names of the old controls tell.
    stored = json.loads((store.path / "run.json").read_text())
    for entry in stored["methods"].values():
        del entry["is_control"]
    (store.path / "run.json").write_text(json.dumps(stored))
    assert [spec.is_control for spec in RunStore.open(store.path).methods.values()] == [True, False, False]


def test_what_cannot_stand_beside_the_stored_results_is_refused(store: RunStore) -> None:
    configure(store)
    before = (store.path / "run.json").read_bytes()
    with pytest.raises(
        StoreError, match=r"fakes 1 \(digest .*\), the suite has fakes 2 \(digest 0000.*another folder"
    ):
        configure(store, protocols={"fakes": {**INFO, "version": "2", "digest": "0" * 12}})
    with pytest.raises(StoreError, match="has the seed 0, the suite 1"):
        configure(store, seeds=(1,))
    with pytest.raises(StoreError, match=r"protocol name '../x' cannot become a file name"):
        configure(store, protocols={"../x": INFO})
    assert (store.path / "run.json").read_bytes() == before


def test_a_dtype_is_kept_once_there_are_edits(store: RunStore) -> None:
    configure(store, dtype="float32")
    configure(store, dtype="float16")
    store.append_edits([edited(store)])
    with pytest.raises(
        StoreError, match=r"Fake edited with float16 so far, now with float32.*Use --dtype float16"
    ):
        configure(store, dtype="float32")
