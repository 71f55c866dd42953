"""Fixtures of the whole tree: a working directory with a small benchmark, and a finished run of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import PLUGIN, SUITE, run

ROOT = Path(__file__).resolve().parent
# Files that `make test-fast` leaves out: browsers, child processes, trainings, whole runs. They take most of the time;
# `pytest --durations=0` shows which belong here.
SLOW = (
    "bench/cli/test_adhoc.py",
    "bench/cli/test_data.py",
    "bench/cli/test_fetch.py",
    "bench/cli/test_judge.py",
    "bench/cli/test_main.py",
    "bench/cli/test_plan.py",
    "bench/cli/test_run.py",
    "bench/judges/test_p",
    "bench/judges/test_world.py",
    "bench/metrics/networks/",
    "bench/metrics/published/test_pie.py",
    "bench/metrics/test_drift.py",
    "bench/metrics/test_realism.py",
    "bench/metrics/test_registration.py",
    "bench/metrics/test_rewards.py",
    "bench/metrics/test_similarity.py",
    "bench/metrics/test_streams.py",
    "bench/study/app/",
    "bench/study/test_build.py",
    "bench/study/test_cli.py",
    "bench/study/test_concurrent.py",
    "bench/study/test_exchange.py",
    "bench/study/test_migrations.py",
    "bench/study/test_platform.py",
    "bench/study/test_simulate.py",
    "bench/study/test_store.py",
    "bench/study/test_trials.py",
    "bench/study/votes/test_analysis.py",
    "bench/study/votes/test_correlation.py",
    "bench/study/votes/test_exclusion.py",
    "bench/study/votes/test_show.py",
    "bench/tables/test_latex.py",
    "bench/test_api.py",
    "bench/test_executors.py",
    "bench/test_runner.py",
    "bench/workers/test_p",
    "methods/attend_and_excite/",
    "methods/blended_diffusion/test_method.py",
    "methods/diffusion/test_adapter.py",
    "methods/diffusion/test_base.py",
    "methods/diffusion/test_controlnet_inpaint.py",
    "methods/diffusion/test_instruct_pix2pix.py",
    "methods/diffusion/test_sd_inpainting.py",
    "methods/diffusion/test_sdedit.py",
    "methods/diffusion/test_table.py",
    "methods/dynamic_prompt_learning/",
    "methods/endpoints/",
    "methods/glide/test_method.py",
    "methods/instance_diffusion/test_sampler.py",
    "methods/prompt_edit_diff/test_pipeline.py",
    "methods/prompt_edit_diff/test_trainer.py",
    "methods/prompt_to_prompt/",
    "methods/smartbrush/",
    "methods/test_blended_latent_diffusion.py",
    "methods/test_contract.py",
    "methods/test_instructions.py",
    "methods/test_latent_blending.py",
    "methods/test_training.py",
    "methods/zoo/",
    "protocols/published/test_runs",
    "protocols/test_celeba_hq.py",
    "protocols/world/",
    "reports/data/test_preference.py",
    "reports/figures/test_charts.py",
    "reports/page/test_browser",
    "reports/page/test_write.py",
    "reports/share/",
    "reports/test_",
    "test_contributing.py",
    "test_docs_api.py",
    "test_eye.py",
    "test_large_world.py",
    "test_readme.py",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out slow files before they are imported, where none of their tests would run."""
    name = collection_path.relative_to(ROOT).as_posix()
    return True if config.option.markexpr == "not slow" and name.startswith(SLOW) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(ROOT).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _errors_as_users_see_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets ``--debug`` of an earlier test, which the command line keeps in the environment of the process."""
    monkeypatch.delenv("PEB_DEBUG", raising=False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with the plug-in ``cli_plugin`` and the suite ``dots.yaml``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "cli_plugin.py").write_text(PLUGIN)
    (tmp_path / "dots.yaml").write_text(SUITE % "")
    yield tmp_path
    sys.modules.pop("cli_plugin", None)


@pytest.fixture(scope="session")
def _finished_dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ``dots.yaml``, made once per worker."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "cli_plugin.py").write_text(PLUGIN)
    (folder / "dots.yaml").write_text(SUITE % "")
    # In this process: a new one would import torch again.
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        assert run("run", "dots.yaml", "--plugin", "cli_plugin", "--device", "cpu", "--quiet") == 0
    finally:
        os.chdir(before)
        # Tests import the plug-in of their own folder.
        while str(folder) in sys.path:
            sys.path.remove(str(folder))
        sys.modules.pop("cli_plugin", None)
    return folder / "runs" / "dots"


@pytest.fixture
def finished_run(place: Path, _finished_dots: Path) -> Path:
    """A copy of a finished run of ``dots.yaml``, in ``runs/dots``."""
    # A copy, since tests change it.
    return Path(shutil.copytree(_finished_dots, place / "runs" / "dots"))
