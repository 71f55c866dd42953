from __future__ import annotations

import importlib.util
import json
import shutil
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.study import StudyError, security
from bench.study.app import service as app_service
from bench.study.app import text as app_text
from bench.study.app.messages import DETAILS, read_answer, trial_message
from bench.study.app.rater import cookie_name
from bench.study.app.service import (
    MAX_INCIDENTS,
    Incidents,
    Service,
    StudyTarget,
    get_service,
    incidents_path,
    study_target,
    without_folder,
)
from bench.study.build import build
from bench.study.design import Design, DesignOptions
from bench.study.images import BUCKET, ImageChanged, ImageServer
from bench.study.interface import OpenTrial, VoteRefused
from bench.study.serving import APP
from bench.study.store import StudyStore
from bench.study.words import words_of
from tests.bench.study.served import ODD

EN = words_of("en", {})


def open_trial(**changes: object) -> OpenTrial:
    fields: dict[str, object] = {
        "id": "ab12",
        "kind": "pair",
        "practice": False,
        "question": "Which?",
        "hint": "Look.",
        "source_prompt": "a room",
        "target_prompt": "a red room",
        "instruction": "make it red",
        "candidates": 2,
        "tie": True,
        "both_bad": False,
        "scales": (),
        "number": 1,
        "total": 3,
    }
    return OpenTrial(**{**fields, **changes})  # type: ignore[arg-type]


# --- the server ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("streamlit") is None, reason="streamlit is not installed")
def test_streamlit_knows_every_option_of_the_server_and_collects_no_garbage_after_a_page() -> None:
    from streamlit import config

    def options(table: dict[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in table.items():
            key = f"{start}{name}"
            yield from options(value, f"{key}.") if isinstance(value, dict) else [(key, value)]

    file = APP.with_name(".streamlit") / "config.toml"
    stated = dict(options(tomllib.loads(file.read_text(encoding="utf-8"))))
    assert set(stated) <= set(config._config_options_template)
    # Streamlit's own default is a full collection, which stops all raters for as long as it takes.
    assert config._config_options_template["runner.postScriptGC"].default_val is True
    assert stated["runner.postScriptGC"] is False


# --- which study, and what went wrong ---------------------------------------------------------------------


def test_the_study_is_named_by_options_before_the_environment() -> None:
    environment = {"PEB_STUDY_STORE": "a.db", "PEB_STUDY_NAME": "taste"}
    assert study_target([], environment) == StudyTarget("a.db", "taste")
    assert study_target(["--store", "b.db", "--study=other"], environment) == StudyTarget("b.db", "other")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no study is named"),
        (["--studdy", "x"], "unknown option --studdy"),
        (["--store"], "expected one"),
    ],
)
def test_no_study_is_guessed(arguments: list[str], says: str) -> None:
    with pytest.raises(StudyError, match=says):
        study_target(arguments, {})


def test_incidents_are_kept_once_each_and_read_back_latest_first(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "incidents.jsonl"
    incidents = Incidents(path)
    for _ in range(3):
        incidents.record("picture", "taste", "edits/a.png: changed", "r1", "t1")
    incidents.record("picture", "taste", "edits/a.png: changed", "r2", "t1")
    incidents.record("error", "other", "x" * 9000)
    # A kill may cut the last line short.
    with path.open("a") as file:
        file.write('{"at": "2026-')  # cut short by a kill
    incidents_read = Incidents(path).read("taste")
    assert [(entry.rater, entry.trial, entry.message) for entry in incidents_read] == [
        ("r2", "t1", "edits/a.png: changed"),
        ("r1", "t1", "edits/a.png: changed"),
    ]
    assert len(Incidents(path).read("other")[0].message) == 2000


def test_a_full_or_unwritable_file_of_incidents_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "incidents.jsonl"
    path.write_bytes(b"x" * MAX_INCIDENTS)
    Incidents(path).record("error", "taste", "one more")
    assert path.stat().st_size == MAX_INCIDENTS
    Incidents(path / "below-a-file").record("error", "taste", "cannot be written")
    assert Incidents(tmp_path / "none").read("taste") == []


def test_incidents_lie_beside_the_database(tmp_path: Path) -> None:
    assert incidents_path(str(tmp_path / "s.db")) == tmp_path / "s-incidents.jsonl"
    assert incidents_path("postgresql://user:secret@host/name") == Path("runs/study-incidents.jsonl")


def test_one_service_per_study_and_no_tokens_of_another(memory: Path, design: Design) -> None:
    target = str(memory / "s.db")
    with StudyStore.open(target) as store:
        store.create("taste", design)
        store.create("other", design)
        token = store.invite("other")[0]
        session = store.register("other").session
    try:
        with pytest.raises(StudyError, match="no study 'tast'"):
            get_service(target, "tast")
        service = get_service(target, "taste")
        assert get_service(target, "taste") is service
        with pytest.raises(security.TokenForged):
            service.redeem(token)
        with pytest.raises(security.TokenForged):
            service.resume(session)
        # It was left as it is.
        assert service.store.status("other").taken_up == 0
    finally:
        app_service._SERVICES.pop((target, "taste")).store.close()


# --- what the browser says --------------------------------------------------------------------------------


def test_an_answer_is_read() -> None:
    details = {"by": "key", "zoomed": 2.5, "touch": True, "width": 1440, "flickered": 3}
    sent = {"trial": "00ff", "answer": 1, "ms": 1234, "details": details, "attempt": 0}
    assert read_answer(sent) == ("00ff", 1, 1234, details, False)
    assert read_answer({**sent, "change": True}).change
    for word in ("tie", "both bad"):
        assert read_answer({"trial": "00ff", "answer": word}) == ("00ff", word, None, {}, False)
    assert read_answer({"trial": "00ff", "answer": [2, 0]}).answer == (2, 0)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "tie",
        {},
        {"trial": "00ff"},
        {"trial": "00ff", "answer": True},
        {"trial": "00ff", "answer": 1.0},
        {"trial": "00ff", "answer": "Zebra"},
        {"trial": "00ff", "answer": [1, "2"]},
        {"trial": "00ff", "answer": [0] * 7},
        {"trial": "../x", "answer": 1},
        {"trial": ["00ff"], "answer": 1},
        {"trial": "0" * 65, "answer": 1},
    ],
)
def test_what_no_screen_sends_is_refused(value: object) -> None:
    with pytest.raises(VoteRefused):
        read_answer(value)


def test_times_and_details_that_cannot_be_are_dropped() -> None:
    for ms in (-1, 1.5, True, "9", None):
        assert read_answer({"trial": "00ff", "answer": 0, "ms": ms})[2] is None
    odd = {
        "by": "x" * 21,
        "zoomed": float("nan"),
        "width": 10**12,
        "height": "900",
        "method": "Zebra",
        "ratio": 2,
    }
    assert read_answer({"trial": "00ff", "answer": 0, "details": odd})[3] == {"ratio": 2}
    assert read_answer({"trial": "00ff", "answer": 0, "details": ["by"]})[3] == {}
    assert len(DETAILS) <= 20  # as many as the store takes


def test_each_link_has_its_own_cookie() -> None:
    names = {cookie_name(place) for place in ("a.b", "a.c", "taste")}
    assert len(names) == 3
    assert all(name.isidentifier() and len(name) < 40 for name in names)


# --- what the browser gets --------------------------------------------------------------------------------


def test_a_trial_of_the_payload_tells_no_method(store: StudyStore, run_folder: Path, tmp_path: Path) -> None:
    design = build([run_folder], DesignOptions(kinds=("best",), raters=2, trials=6, repeats=1, attention=1))
    store.create("taste", design)
    served = Service(store, ImageServer(store), "taste", Incidents(tmp_path / "i.jsonl"))
    rater = store.register("taste").rater
    answers = 0
    following: list[str] = []
    while (trial := store.next_trial(rater)) is not None:
        data = trial_message(served, rater, trial)
        text = json.dumps(data)
        # A message that acknowledges an answer holds no picture.
        assert len(text) < 6000
        # Everything that identifies a method, a file or a rater.
        hidden = [*design.methods, *design.method_digests.values(), design.digest, rater]
        hidden += [ref.sha256 for _, ref in design.images()] + [ref.file for _, ref in design.images()]
        # One-letter titles are the labels of the places as well.
        assert not [name for name in hidden if len(name) > 1 and name in text]
        # What was fetched ahead is what is shown.
        assert following in ([], data["pictures"])
        following = data["next"]
        assert all(address.startswith("pictures/") for address in data["pictures"])
        pictures = [served.image(*address.split("/")[1:]) for address in data["pictures"]]
        assert len(set(pictures)) == len(pictures)
        assert len(pictures) == 2 + trial.candidates == 2 + len(data["trial"]["labels"])
        assert len({len(picture) for picture in pictures}) == 1
        assert len(pictures[0]) % BUCKET == 0
        assert data["trial"]["labels"] == ["A", "B", "C", "D"][: trial.candidates]
        # The message holds these fields and no others.
        assert set(data["trial"]) == {
            *("id", "kind", "practice", "question", "hint", "brief", "labels", "tie", "bothBad", "scales"),
            *("number", "total", "seconds"),
        }
        store.vote(rater, trial.id, 0, 900)
        answers += 1
    assert answers == 2 + 6
    assert following == []


def test_images_that_are_asked_for_at_once_are_encoded_once(
    store: StudyStore, design: Design, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.study import images

    store.create("taste", design)
    served = Service(store, ImageServer(store), "taste", Incidents(tmp_path / "i.jsonl"))
    rater = store.register("taste").rater
    trial = store.next_trial(rater)
    assert trial is not None
    data = trial_message(served, rater, trial)
    encoded: list[str] = []
    real = images.trial_images

    def counting(*arguments):  # type: ignore[no-untyped-def]
        encoded.append(arguments[2].id)
        return real(*arguments)

    monkeypatch.setattr(images, "trial_images", counting)
    addresses = [address.split("/")[1:] for address in data["pictures"] + data["next"]]
    with ThreadPoolExecutor(16) as pool:
        pngs = list(pool.map(lambda address: served.image(*address), 3 * addresses))
    assert len(set(pngs)) == len(addresses)
    assert pngs == 3 * pngs[: len(addresses)]
    assert len(encoded) == len(set(encoded)) == 2
    # The address of an image leads to that one alone.
    (group, _), (other, picture) = addresses[0], addresses[-1]
    for wrong in ((group, picture), ("00" * 16, picture), (other, "")):
        with pytest.raises(VoteRefused):
            served.image(*wrong)


def test_a_file_that_changes_after_the_trial_was_shown_voids_it(
    store: StudyStore, run_folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run_folder, tmp_path / "copy"))
    design = build([copy], DesignOptions(raters=2, trials=6, repeats=0, attention=0, practice=0))
    store.create("taste", design)
    served = Service(store, ImageServer(store), "taste", Incidents(tmp_path / "i.jsonl"))
    rater = store.register("taste").rater
    trial = store.next_trial(rater)
    assert trial is not None
    # The addresses are handed out, then the file changes.
    address = trial_message(served, rater, trial)["pictures"][0].split("/")[1:]
    design.path(design.case_by_key[store.unblinded(rater, trial.id).trial.case].source).write_bytes(b"x")
    with pytest.raises(ImageChanged):
        served.image(*address)
    assert served.void == {trial.id}
    assert [one.trial for one in served.incidents.read("taste")] == [trial.id]
    following = store.next_trial(rater, served.void)
    assert following is not None
    assert following.id != trial.id


def test_no_frame_names_the_folder_of_the_script() -> None:
    proto = pytest.importorskip("streamlit.proto.ForwardMsg_pb2")
    message = proto.ForwardMsg()
    message.new_session.main_script_path = str(APP.with_name("page.py"))
    message.new_session.name = "page"
    clean = without_folder(message.SerializeToString())
    assert str(APP.parent).encode() not in clean
    assert proto.ForwardMsg.FromString(clean).new_session.main_script_path == "page.py"
    assert proto.ForwardMsg.FromString(clean).new_session.name == "page"
    other = proto.ForwardMsg(script_finished=0).SerializeToString()
    assert without_folder(other) == other


class Markup(HTMLParser):
    """Elements and text of a fragment, as a browser would read them."""

    def __init__(self, fragment: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.text = ""
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_texts_are_never_markup(text: str) -> None:
    for fragment, elements in (
        (app_text.plain(text), ["p"]),
        (app_text.heading(text), ["h1"]),
        (app_text.facts([text]), ["ul", "li"]),
        (app_text.card(app_text.plain(text)), ["div", "p"]),
    ):
        read = Markup(fragment)
        assert (read.elements, read.text) == (elements, text)


def test_what_was_asked_for_comes_first() -> None:
    assert app_text.brief(EN, open_trial()) == [
        ["Asked for", "make it red", "main"],
        ["Should show", "a red room", ""],
    ]
    assert app_text.brief(EN, open_trial(instruction=" ")) == [["Should show", "a red room", "main"]]
    assert app_text.labels(EN, open_trial(candidates=28))[24:] == ["Y", "Z", "27", "28"]
    assert app_text.labels(EN, open_trial(kind="rate", candidates=1)) == ["Edit"]


def test_markdown_of_a_study_has_no_html_and_loads_nothing() -> None:
    read = Markup(
        app_text.markdown(
            "# Head\n\n**bold** and [a link](https://x.example/y)\n\n* one\n* two\n\n"
            "<script>alert(1)</script> ![picture](https://x.example/p.png) [bad](javascript:alert(1))"
        )
    )
    assert read.elements == ["div", "h1", "p", "strong", "a", "ul", "li", "li", "p", "a"]
    assert "<script>alert(1)</script>" in read.text
    assert "[bad](javascript:alert(1))" in read.text


def test_examples_show_three_answers_without_any_file() -> None:
    read = app_text.examples(EN)
    assert read.count('class="best"') == 3
    sources = read.split('src="')[1:]
    assert len(sources) == 9
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)


def test_sentences_that_begin_with_a_latin_letter_keep_the_direction_of_the_language() -> None:
    arabic = words_of("ar", {})
    # A browser would take "A" for the direction of the whole sentence.
    assert arabic("example.first").startswith("A")
    for part in (app_text.examples(arabic), app_text.keys(arabic, DesignOptions())):
        assert 'dir="auto"' not in part
    assert app_text.page(arabic, app_text.examples(arabic)).startswith('<div class="peb" dir="rtl"')


def test_nothing_that_is_served_names_another_host() -> None:
    files = sorted(path for path in app_text.STATIC.rglob("*") if path.is_file())
    assert len(files) > 10
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "://" not in text, path.name
        # In one place, for questions in the study's words, which the server has escaped or made of Markdown.
        assert text.count("innerHTML") == (path.name == "parts.js"), path.name
