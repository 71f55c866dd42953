from __future__ import annotations

import os

import pytest

from bench.endpoints.client import EndpointError
from bench.endpoints.servers import bind_key, find_server, server_problems
from bench.errors import BenchError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine that runs the tests, and none left behind."""
    for name in list(os.environ):
        if name.startswith("PROMPTEDITBENCH_") or name in ("OPENAI_API_KEY", "GEMINI_API_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PROMPTEDITBENCH_KEYS", "")


def test_the_servers_that_are_built_in_have_the_keys_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-a\n")
    openai, gemini = find_server("openai"), find_server("gemini")
    assert (openai.url, openai.key, openai.problems()) == ("https://api.openai.com/v1", "sk-a", [])
    assert (gemini.host, gemini.key_variable) == ("generativelanguage.googleapis.com", "GEMINI_API_KEY")
    (problem,) = server_problems("gemini")
    assert problem.startswith("the environment variable GEMINI_API_KEY is not set: put the API key of gen")


def test_another_name_has_its_address_and_its_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = server_problems("qwen")
    assert "PROMPTEDITBENCH_QWEN_URL is not set" in problem
    monkeypatch.setenv("PROMPTEDITBENCH_QWEN_URL", "https://gpu.example.org/v1/")
    (problem,) = server_problems("qwen")
    assert "PROMPTEDITBENCH_QWEN_KEY is not set" in problem
    monkeypatch.setenv("PROMPTEDITBENCH_QWEN_KEY", "k")
    assert server_problems("qwen") == []
    assert find_server("qwen").url == "https://gpu.example.org/v1"


@pytest.mark.parametrize(
    ("url", "key", "problem"),
    [
        ("http://localhost:8000/v1", "", ""),
        ("http://127.0.0.1:8000/v1", "k", ""),
        ("https://localhost:8000/v1", "", ""),
        # A machine of the laboratory, which asks for no key.
        ("http://gpu-box:8000/v1", "", ""),
        ("http://gpu-box:8000/v1", "k", "expected https"),
        ("https://example.org/v1", "", "PROMPTEDITBENCH_X_KEY is not set"),
        ("ftp://example.org/v1", "k", "expected https"),
        ("https://", "k", "expected https"),
        ("https://example.org", "two words", "holds what cannot be a key"),
    ],
)
def test_a_key_never_travels_unencrypted(
    monkeypatch: pytest.MonkeyPatch, url: str, key: str, problem: str
) -> None:
    monkeypatch.setenv("PROMPTEDITBENCH_X_URL", url)
    monkeypatch.setenv("PROMPTEDITBENCH_X_KEY", key)
    problems = server_problems("x")
    assert len(problems) == bool(problem)
    assert problem in "".join(problems)


@pytest.mark.parametrize("name", ["", "OpenAI", "../x", "a b", "x-y", "https://example.org"])
def test_a_name_is_a_name(name: str) -> None:
    with pytest.raises(EndpointError, match="expected a name"):
        find_server(name)


def test_the_key_of_a_host_goes_to_that_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    for url, variable in (
        ("https://api.openai.com/v1/", "OPENAI_API_KEY"),
        ("http://api.openai.com/v1", "PROMPTEDITBENCH_X_KEY"),
        ("https://api.openai.com.example.org/v1", "PROMPTEDITBENCH_X_KEY"),
        ("https://api.openai.com:444/v1", "PROMPTEDITBENCH_X_KEY"),
        ("https://me@api.openai.com/v1", "PROMPTEDITBENCH_X_KEY"),
    ):
        monkeypatch.setenv("PROMPTEDITBENCH_X_URL", url)
        assert find_server("x").key_variable == variable


def test_a_key_of_the_command_line_is_bound_to_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER", "k1")
    monkeypatch.setenv("OTHER", "k2")
    bind_key("openrouter.ai=ROUTER")
    bind_key("localhost:8000=OTHER")
    monkeypatch.setenv("PROMPTEDITBENCH_JUDGE_URL", "https://openrouter.ai/api/v1")
    assert find_server("judge").key == "k1"
    monkeypatch.setenv("PROMPTEDITBENCH_JUDGE_URL", "http://localhost:8000/v1")
    assert find_server("judge").key == "k2"
    monkeypatch.setenv("PROMPTEDITBENCH_JUDGE_URL", "https://example.org/v1")
    assert find_server("judge").key == ""
    # In the environment, where worker processes find it, stand the names of variables alone.
    assert os.environ["PROMPTEDITBENCH_KEYS"] == "openrouter.ai=ROUTER,localhost:8000=OTHER"


@pytest.mark.parametrize("text", ["sk-secret", "=X", "host=", "https://host=X", "host=sk-secret", "a=B,c=D"])
def test_a_key_itself_is_refused_on_the_command_line(text: str) -> None:
    with pytest.raises(BenchError, match="HOST=VARIABLE") as caught:
        bind_key(text)
    assert "secret" not in str(caught.value)


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(BenchError, match="variable NOT_SET is not set"):
        bind_key("host=NOT_SET")
