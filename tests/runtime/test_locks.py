import threading
from concurrent.futures import ThreadPoolExecutor

from ovsdino_runtime.base.locks import hold_lock


def test_only_one_at_a_time_and_nothing_is_left(tmp_path):
    inside, most, door = 0, 0, threading.Lock()

    def enter(_: int) -> None:
        nonlocal inside, most
        with hold_lock(tmp_path / ".lock"):
            with door:
                inside += 1
                most = max(most, inside)
            with door:
                inside -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(enter, range(400)))
    assert most == 1
    assert list(tmp_path.iterdir()) == []
