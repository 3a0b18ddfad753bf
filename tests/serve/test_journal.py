"""The journal of a large job: it goes on, torn lines are done again, another job is refused."""

import json

import pytest

from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.cluster.journal import FOLDER, Journal, OtherJobError

JOB = {"classes": (("cat", "kitten"), ("dog",)), "threshold": 0.4}


def test_what_is_done_is_known_to_the_next_process(tmp_path):
    assert Journal(tmp_path).done(JOB) == set()
    assert not list(tmp_path.iterdir())  # a look leaves no trace
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.begin(JOB)
    first.add("a")
    second.add("ü\n")
    first.add("b")
    assert Journal(tmp_path).done(JOB) == {"a", "b", "ü\n"}


def test_a_torn_line_is_done_again(tmp_path):
    journal = Journal(tmp_path)
    journal.begin(JOB)
    journal.add("whole")
    journal.add("torn")
    (file,) = (tmp_path / FOLDER).glob("*.jsonl")
    file.write_text(file.read_text()[:-3])
    assert Journal(tmp_path).done(JOB) == {"whole"}


def test_another_job_is_refused_and_what_differs_is_named(tmp_path):
    Journal(tmp_path).begin(JOB)
    with pytest.raises(OtherJobError, match=r"another job \(threshold: different\); choose another --out"):
        Journal(tmp_path).done({**JOB, "threshold": 0.5})
    Journal(tmp_path).done(json.loads(json.dumps(JOB)))


def test_a_damaged_journal_is_one_line(tmp_path):
    Journal(tmp_path).begin(JOB)
    (tmp_path / FOLDER / "job.json").write_text("{")
    with pytest.raises(OutputError, match=r"job\.json: damaged; choose another --out, or delete"):
        Journal(tmp_path).done(JOB)
