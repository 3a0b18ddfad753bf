import json
import logging
import os
import re
import signal

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file

from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.demo.page import EMPTY, EXAMPLES, FAULT, answer, asset_path
from ovsdino_runtime.demo.responses import Responder
from ovsdino_runtime.demo.server import POLICY, serve
from ovsdino_runtime.demo.telemetry_off import private_files
from tests.demo.conftest import ROOT, started


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


def test_an_answer_for_the_page(tiny, flag):
    chips, view = answer(
        Responder(tiny),
        {"path": str(flag)},
        chips=["red, green", "blue"],
        threshold=0,
        around=False,
        uploads=flag.parent,
    )
    assert chips == ["red", "green", "blue"]
    assert {entry["name"] for entry in view["answer"]["entries"]} == {"red", "green", "blue"}
    json.dumps(view)  # it goes to the browser
    chips, _ = answer(
        Responder(tiny), {"path": str(flag)}, chips=["red"], threshold=0, around=False, uploads=flag.parent
    )
    assert chips == gr.skip()  # nothing to part


@pytest.mark.parametrize(
    ("around", "names"), [(True, {"red", "background"}), (False, {"red", "green"}), ("yes", {"red", "green"})]
)
def test_only_the_words_makes_the_surroundings_background(tiny, flag, around, names):
    words = ["red"] if around is True else ["red", "green"]  # one alone has a background anyway
    _, view = answer(
        Responder(tiny), {"path": str(flag)}, chips=words, threshold=0, around=around, uploads=flag.parent
    )
    assert {entry["name"] for entry in view["answer"]["entries"]} == names


def test_without_a_photo_the_page_asks_for_one(tiny, tmp_path):
    said = answer(Responder(tiny), None, chips=["red, blue"], threshold=0, around=False, uploads=tmp_path)
    assert said == (["red", "blue"], {"message": EMPTY})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"file": {"path": None}}, "expected an uploaded photo"),
        ({"file": "/etc/passwd"}, "expected an uploaded photo"),
        ({"file": {"path": str(asset_path("cat.jpg"))}}, "expected an uploaded photo"),
        ({"chips": []}, "no class is given; write some words, such as 'cat, grass, sky'"),
        ({"chips": None}, "no class is given; write some words, such as 'cat, grass, sky'"),
        ({"chips": [["red"]]}, "words are text, such as 'cat', 'grass', 'sky'"),
        ({"threshold": "0.5"}, "the background's threshold must be in 0..1, got '0.5'"),
        ({"threshold": float("nan")}, "the background's threshold must be in 0..1, got nan"),
        (
            {"chips": ["background"], "threshold": 0.5},
            "the only class is 'background', which has no words; write some words, such as 'cat, grass, sky'",
        ),
    ],
)
def test_a_mistake_is_one_line_on_the_page(tiny, flag, change, error):
    question = {"file": {"path": str(flag)}, "chips": ["red"], "threshold": 0, "around": False} | change
    assert answer(Responder(tiny), **question, uploads=flag.parent)[1] == {"error": error}


def test_a_fault_of_ours_is_a_sentence_on_the_page_and_a_traceback_in_the_log(
    tiny, flag, monkeypatch, caplog
):
    monkeypatch.setattr(tiny, "segment", lambda *_, **__: 1 / 0)
    with caplog.at_level(logging.ERROR):
        _, view = answer(
            Responder(tiny),
            {"path": str(flag)},
            chips=["red"],
            threshold=0,
            around=False,
            uploads=flag.parent,
        )
    assert view == {"error": FAULT}
    assert "Traceback" not in FAULT
    assert "ZeroDivisionError" in caplog.text


def test_every_example_can_be_named(tiny):
    for name, words in EXAMPLES.items():
        file = asset_path(name)
        _, view = answer(
            Responder(tiny),
            {"path": str(file)},
            chips=list(words),
            threshold=0,
            around=False,
            uploads=file.parent,
        )
        assert "answer" in view
        assert name in asset_path("ATTRIBUTION.md").read_text(encoding="utf-8")


def test_the_page_is_told_to_load_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-security-policy"] == POLICY
    assert page.headers["referrer-policy"] == "no-referrer"
    loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']([^\"']*)", page.text)
    assert loaded
    assert not [address for address in loaded if re.match(r"(https?:)?//", address)]
    styles = client.get("/theme.css").text
    assert "http" not in re.sub(r"http://www\.w3\.org\S*", "", styles)
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400  # a name that points here


def test_there_is_no_other_interface_than_the_page(client):
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert config["max_file_size"] == 20 * 1024**2
    assert client.get("/gradio_api/info").json()["named_endpoints"] == {}


def test_a_large_file_is_refused_while_it_is_sent(client):
    sent = client.post("/gradio_api/upload", files={"files": ("large.jpg", bytes(21 * 1024**2))})
    assert sent.status_code == 413


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}])
def test_photos_of_this_machine_are_not_named(client, meta):
    """Only what was uploaded; with the mark of an upload Gradio sees to it, without it we do."""
    data = [{"path": str(ROOT / "examples" / "cat.png"), **meta}, ["cat"], 0, False]
    begun = client.post("/gradio_api/call/ask", json={"data": data}).json()
    heard = client.get(f"/gradio_api/call/ask/{begun['event_id']}").text
    assert heard.startswith("event: error") if meta else "expected an uploaded photo" in heard
    assert "Traceback" not in heard
    assert "entries" not in heard
    assert client.get(f"/gradio_api/file={ROOT}/examples/cat.png").status_code == 403


def test_settings_and_files_are_as_before_when_the_server_has_gone(monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/somewhere")
    monkeypatch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
    before = dict(os.environ)
    with private_files() as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == folder
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert dict(os.environ) == before
    assert not os.path.exists(folder)  # noqa: PTH110


def test_over_http_as_a_program_would(server):
    client = Client(server, verbose=False)
    _, view = client.predict(
        handle_file(ROOT / "examples" / "cat.png"), ["cat, wall"], 0, False, api_name="/ask"
    )
    assert view["answer"]["model"] == "nano"
    assert view["answer"]["entries"][0]["name"] == "cat"
    client.close()


def test_ctrl_c_stops_it_and_leaves_nothing(tmp_path):
    """What a process says on stderr: also whom it called, which is nobody; see `started`."""
    with started(tmp_path) as (address, process):
        photo = (ROOT / "examples" / "cat.png").read_bytes()
        path = httpx.post(f"{address}/gradio_api/upload", files={"files": ("cat.png", photo)}).json()[0]
        assert (tmp_path / "temporary") in type(tmp_path)(path).parents
        assert type(tmp_path)(path).is_file()
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=20)
        assert (process.returncode, said, complained) == (0, "stopped\n", "")
        assert not list((tmp_path / "temporary").iterdir())


def test_a_port_that_is_taken_is_refused(tiny, server):
    port = int(server.rpartition(":")[2])
    with pytest.raises(OutputError, match=f"port {port}: cannot be opened: .*in use; try another --port"):
        serve(Responder(tiny), host="127.0.0.1", port=port, ready=print)


def test_the_command_without_gradio_says_what_to_install(monkeypatch):
    import sys

    from click.testing import CliRunner

    from ovsdino_runtime.demo.cli import demo

    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("page", "server"):
        monkeypatch.delitem(sys.modules, f"ovsdino_runtime.demo.{name}", raising=False)
    done = CliRunner().invoke(demo, ["--port", "0"])
    assert done.exit_code == 2
    assert "needs gradio, which is not installed: pip install '.[demo]'" in done.output
