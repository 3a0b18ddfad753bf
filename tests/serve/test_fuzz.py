"""Requests made up from the server's own OpenAPI: it never fails, and answers as it says it does."""

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks

from tests.serve.running import png

PATHS = ["GET /", "GET /healthz", "GET /metrics", "POST /segment"]
PROMISES = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
BOUNDED = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def operations(address):
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


def test_all_paths_are_described(operations):
    assert sorted(operations) == PATHS


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", PATHS)
def test_a_path_does_what_its_description_says(operations, path, mode):
    strategy = operations[path].as_strategy(generation_mode=mode)
    if mode is GenerationMode.NEGATIVE and path != "POST /segment":
        return  # nothing can be wrong with a request without a body

    @BOUNDED
    @given(case=strategy)
    def check(case):
        case.call_and_validate(checks=PROMISES)

    check()


def test_made_up_words_about_a_real_photo(operations):
    photo = png(np.full((20, 30, 3), 200, np.uint8))

    @BOUNDED
    @given(case=operations["POST /segment"].as_strategy())
    def check(case):
        fields = case.body if isinstance(case.body, dict) else {}
        case.body, case.media_type = {**fields, "photo": photo}, "multipart/form-data"
        assert case.call_and_validate(checks=PROMISES).status_code in {200, 422}

    check()


@pytest.mark.parametrize(("classes", "status"), [("cat, dog", 200), ("cat,,dog", 422)])
def test_good_and_bad_words_about_a_real_photo(operations, classes, status):
    body = {"photo": png(np.full((20, 30, 3), 200, np.uint8)), "classes": classes}
    case = operations["POST /segment"].Case(body=body, media_type="multipart/form-data")
    assert case.call_and_validate(checks=PROMISES).status_code == status
