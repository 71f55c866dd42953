"""The shipped schema is that of the models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.store import RunStore
from reports.share.entries.export import export_entry
from reports.share.entries.format import SCHEMA, json_schema
from tests.reports import fake


def test_the_shipped_schema_is_that_of_the_models() -> None:
    assert json.loads(SCHEMA.read_text()) == json.loads(json.dumps(json_schema()))


def test_an_entry_fits_its_schema_by_another_implementation(store: RunStore, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    content = json.loads(export_entry(store, tmp_path / "e.json", facts=fake.METRICS).read_text())
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    assert list(validator.iter_errors(content)) == []
    content["scores"][0]["values"][0] = "high"
    content["surprise"] = 1
    assert len(list(validator.iter_errors(content))) >= 2
