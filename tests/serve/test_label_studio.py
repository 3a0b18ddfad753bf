"""The backend of Label Studio: asked as Label Studio asks; its pictures come from a host with a token."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import requests
from click.testing import CliRunner

from ovsdino_runtime.base.errors import OptionError
from ovsdino_runtime.integrations.label_studio import to_label_studio
from ovsdino_runtime.serve.access import AccessOptions
from ovsdino_runtime.serve.cli import serve
from ovsdino_runtime.serve.label_studio import LabelStudioOptions, Task
from ovsdino_runtime.serve.remote_photo import RemoteOptions
from ovsdino_runtime.serve.service import ServiceOptions
from tests.serve.running import png, running

CONFIG = """<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">
<Label value="red"/><Label value="green"/></BrushLabels></View>"""
PHOTO = np.zeros((48, 64, 3), np.uint8) + np.uint8([255, 0, 0])
PHOTO[:, 32:] = (0, 255, 0)
TOKEN = "0123456789abcdef0123456789abcdef01234567"
KEY = "a key of the server's"


class LabelStudio(BaseHTTPRequestHandler):
    """Gives pictures to those who send the token, and writes down who asked."""

    def do_GET(self):
        asked.append((self.path, self.headers["Authorization"]))
        parts = urlsplit(self.path)
        if parts.path == "/away":  # such as a signed address in a cloud
            self.send_response(302)
            self.send_header("Location", parse_qs(parts.query)["to"][0])
            self.end_headers()
            return
        known = self.headers["Authorization"] == f"Token {TOKEN}" or parts.path == "/public"
        data = png(PHOTO) if known else b"<html>Log in</html>"
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


asked = []


@contextmanager
def hosting():
    server = ThreadingHTTPServer(("127.0.0.1", 0), LabelStudio)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def host():
    asked.clear()
    with hosting() as address:
        yield address


def request(*values, config=CONFIG, **more):
    """What Label Studio sends to /predict; it names a host and a token, which must not be used."""
    tasks = [
        {"id": 7 + number, "data": {"image": value}, "annotations": [], "predictions": []}
        for number, value in enumerate(values)
    ]
    params = {"login": None, "password": None, "hostname": "http://169.254.169.254", "context": None}
    return {"tasks": tasks, "project": "3.1700000000", "label_config": config, "params": params, **more}


@pytest.fixture
def backend(segmenter, host):
    options = LabelStudioOptions(address=host, token=TOKEN)
    with running(segmenter, label_studio=options) as address:
        yield address


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/data/upload/3/a.png", "/data/upload/3/a.png"),
        ("upload/3/a.png", "/data/upload/3/a.png"),
        ("/data/local-files/?d=photos/a.png", "/data/local-files/?d=photos/a.png"),
        ("s3://bucket/a.png", "/tasks/7/presign/?fileuri=czM6Ly9idWNrZXQvYS5wbmc%3D"),
    ],
)
def test_uploaded_pictures_are_fetched_and_predicted(backend, reference, value, path):
    answer = requests.post(f"{backend}/predict", json=request(value), timeout=60)
    assert answer.status_code == 200, answer.text
    assert asked == [(path, f"Token {TOKEN}")]
    [result] = answer.json()["results"]
    expected = to_label_studio(reference(PHOTO, "red, green", background_classes="surroundings"))
    assert result == json.loads(json.dumps(expected))
    assert {region["value"]["brushlabels"][0] for region in result["result"]} <= {"red", "green"}
    assert result["result"]


def test_setup_and_health(backend, reference):
    assert requests.get(f"{backend}/health", timeout=9).json()["status"] == "UP"
    body = {"project": "3.1700000000", "schema": CONFIG, "hostname": "http://x", "access_token": "t"}
    answer = requests.post(f"{backend}/setup", json=body, timeout=9)
    digest = reference.bundle.digest[:12]
    assert answer.json() == {"model_version": f"{reference.bundle.manifest.name}-{digest}"}
    refused = requests.post(f"{backend}/setup", json=body | {"schema": "<View/>"}, timeout=9)
    assert refused.status_code == 422
    assert "no labels to predict" in refused.json()["error"]
    assert requests.post(f"{backend}/webhook", json={"action": "PROJECT_UPDATED"}, timeout=9).ok


def test_a_broken_picture_does_not_stop_the_others(backend, segmenter):
    values = ("/data/upload/3/a.png", "ftp://example.org/b.png", "/data/upload/3/c.png")
    results = requests.post(f"{backend}/predict", json=request(*values), timeout=60).json()["results"]
    assert [bool(result["result"]) for result in results] == [True, False, True]
    assert "not an address" in results[1]["error"]
    alone = requests.post(f"{backend}/predict", json=request(values[1]), timeout=60)
    assert alone.status_code == 422
    assert "not an address" in alone.json()["error"]


@pytest.mark.parametrize("value", [None, 3, "", ["/a.png"]])
def test_a_task_without_a_picture_is_refused(backend, value):
    answer = requests.post(f"{backend}/predict", json=request(value), timeout=60)
    assert answer.status_code == 422
    assert "task 7: no address of a picture in 'image'" in answer.json()["error"]


def test_the_token_goes_to_label_studio_alone(segmenter, host):
    """An address of another host, given or redirected to, is fetched only where public addresses are."""
    with hosting() as other:
        ways = [f"{other}/public", f"/away?to={other}/public", "http://169.254.169.254/latest"]
        options = LabelStudioOptions(address=host, token=TOKEN)
        with running(segmenter, label_studio=options) as address:
            for way in ways:
                answer = requests.post(f"{address}/predict", json=request(way), timeout=60)
                assert answer.status_code == 422, way
                assert "--allow-url" in answer.json()["error"]
        assert [path for path, _ in asked] == [f"/away?to={other}/public"]


def test_public_addresses_get_no_token(segmenter, host):
    remote = RemoteOptions(allowed=lambda _: True)  # as if the other host were public
    options = LabelStudioOptions(address=host, token=TOKEN)
    with (
        hosting() as other,
        running(segmenter, ServiceOptions(remote=remote), label_studio=options) as address,
    ):
        for way in (f"{other}/public", f"/away?to={other}/public"):
            asked.clear()
            answer = requests.post(f"{address}/predict", json=request(way), timeout=60)
            assert answer.status_code == 200, answer.text
            assert asked[-1] == ("/public", None)


def test_a_key_is_the_password(segmenter, host):
    options = LabelStudioOptions(address=host, token=TOKEN)
    access = AccessOptions(keys=(KEY,))
    with running(segmenter, access=access, label_studio=options) as address:
        for auth, status in ((None, 401), (("label", "wrong"), 401), (("label", KEY), 200)):
            answer = requests.get(f"{address}/health", auth=auth, timeout=9)
            assert answer.status_code == status
        broken = {"Authorization": "Basic \xff\xfe"}
        assert requests.get(f"{address}/health", headers=broken, timeout=9).status_code == 401


def test_without_the_option_there_is_no_backend(address):
    for path in ("predict", "setup"):
        assert requests.post(f"{address}/{path}", json={}, timeout=9).status_code == 404


def test_requests_of_another_kind_are_refused(backend):
    assert requests.post(f"{backend}/predict", data="x", timeout=9).status_code == 415
    many = request(*(["/a.png"] * 1001))
    assert requests.post(f"{backend}/predict", json=many, timeout=9).status_code == 422
    bad = request("/a.png", config="<View>")
    assert requests.post(f"{backend}/predict", json=bad, timeout=9).status_code == 422


@pytest.mark.parametrize("address", ["localhost:8080", "ftp://host", "http://", "http://me:pass@host"])
def test_an_address_that_is_none_is_refused(address, monkeypatch):
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    done = CliRunner().invoke(serve, ["--label-studio", address])
    assert done.exit_code == 2
    assert "Label Studio's address" in done.output


def test_a_token_that_must_be_renewed_is_refused():
    with pytest.raises(OptionError, match="legacy token"):
        LabelStudioOptions(address="http://localhost:8080", token="eyJ0.eyJ1.c2ln")
    options = LabelStudioOptions(address="http://localhost:8080/", token=TOKEN)
    assert TOKEN not in repr(options.host)
    assert options.locate(Task(id=1, data={"image": "/data/a.png"}), "image").endswith(":8080/data/a.png")
