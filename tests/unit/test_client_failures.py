"""The users' client and its jobs, against a server that answers and fails as it is told to."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pocketkv import client
from pocketkv.client import connection
from tests.unit.scripted import Answer, ScriptedServer, answers, bulk_map

WAIT_TIMEOUT_S = 10.0
JOB = "shuffle-0123456789abcdef"
TOKEN = "t0ken_-"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], ScriptedServer]]:
    monkeypatch.setattr(connection, "_BACKOFF_MIN_S", 0.001)
    servers: list[ScriptedServer] = []

    def start(answer: Answer) -> ScriptedServer:
        servers.append(ScriptedServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


# --- failures ------------------------------------------------------------------------------------

Scripted = Callable[[Answer], ScriptedServer]


def test_a_lost_answer_is_asked_for_again(scripted: Scripted) -> None:
    server = scripted(answers(None, None, b"$1\r\nx\r\n"))
    with client.connect(server.place) as storage:
        assert storage.get_buffer("a") == b"x"
    assert server.job_requests() == [[b"GET", b"a"]] * 3


def test_what_deletes_is_not_repeated(scripted: Scripted) -> None:
    server = scripted(answers(None))
    with client.connect(server.place) as storage, pytest.raises(client.ServerUnavailableError):
        storage.get_buffer("a", delete_after_read=True)
    assert server.job_requests() == [[b"GETDEL", b"a"]]


def test_retries_end(scripted: Scripted) -> None:
    server = scripted(answers(b"-CLUSTERDOWN Hash slot not served\r\n"))
    with (
        client.connect(server.place, retries=2) as storage,
        pytest.raises(client.ServerUnavailableError, match="not served"),
    ):
        storage.put_buffer(b"x", "a")
    assert len(server.job_requests()) == 3


def test_a_refusal_is_not_repeated(scripted: Scripted) -> None:
    server = scripted(answers(b"-ERR no\r\n"))
    with client.connect(server.place) as storage, pytest.raises(client.CommandRefusedError):
        storage.get_buffer("a")
    assert len(server.job_requests()) == 1


def test_a_silent_server_is_given_up(scripted: Scripted) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        storage = client.connect(place, timeout_s=0.05, retries=0)
        with storage, pytest.raises(client.ServerUnavailableError):
            storage.get_buffer("a")
        with pytest.raises(client.ServerUnavailableError):
            client.connect(place, cluster=True, timeout_s=0.05, retries=0)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
    with (
        client.connect(place, retries=0) as storage,
        pytest.raises(client.ServerUnavailableError, match="refused"),
    ):
        storage.count_files()


def test_nothing_is_stored_that_could_not_be_kept(scripted: Scripted) -> None:
    server = scripted(answers(b"-ERR retained keys are not available yet\r\n"))
    with (
        client.connect(f"redis://{JOB}:{TOKEN}@{server.place}") as storage,
        pytest.raises(client.RetainNotAvailableError, match="not available yet"),
    ):
        storage.put_buffer(b"x", "a", persist_after_job=True)
    assert server.job_requests() == [[b"JOB.RETAIN", b"a"]]


def test_what_can_be_kept_is_marked_when_it_is_there(scripted: Scripted) -> None:
    server = scripted(lambda request: b"+OK\r\n" if request[0] == b"SET" else b":0\r\n")
    with client.connect(server.place) as storage:
        storage.put_buffer(b"x", "a", persist_after_job=True)
    assert [r[0] for r in server.job_requests()] == [b"JOB.RETAIN", b"SET", b"JOB.RETAIN"]


# --- jobs ----------------------------------------------------------------------------------------


def test_hints_are_sent_as_numbers(scripted: Scripted) -> None:
    place = ""
    server = scripted(
        lambda request: (
            bulk_map(id=JOB, token=TOKEN, url=f"redis://{JOB}:{TOKEN}@{place}")
            if request[0] == b"JOB.REGISTER"
            else b"+OK\r\n"
        )
    )
    place = server.place
    job = client.register_job(
        "shuffle",
        url=server.place,
        lambdas=10,
        capacity="64mb",
        throughput="600mbps",
        latency="tolerant",
        lease=60,
        tiers=["dram", "nvme"],
    )
    job.update(capacity=10**9)
    assert (job.id, job.url) == (JOB, f"redis://{JOB}:{TOKEN}@{server.place}")
    sent = [b" ".join(request).decode() for request in server.job_requests()]
    registration = (
        "JOB.REGISTER shuffle LAMBDAS 10 CAPACITY 67108864 THROUGHPUT 75000000 LATENCY tolerant"
        " LEASE 60 TIERS dram nvme"
    )
    assert sent == [registration, f"JOB.UPDATE {JOB} CAPACITY 1000000000"]
    # What the job does with itself, it does as itself.
    greetings = [request for request in server.requests if request[0] == b"HELLO"]
    assert greetings == [[b"HELLO", b"3"], [b"HELLO", b"3", b"AUTH", JOB.encode(), TOKEN.encode()]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"name": "default"},
        {"capacity": "-1"},
        {"capacity": "much"},
        {"throughput": 1.5},
        {"latency": "low"},
        {"tiers": ["tape"]},
        {"tiers": []},
        {"lambdas": -1},
        {"lease": "soon"},
        {"keep_lease": True},
        {"url": "http://router"},
        {"url": "redis://router:port"},
    ],
    ids=str,
)
def test_wrong_arguments_are_not_sent(wrong: dict[str, Any], scripted: Scripted) -> None:
    server = scripted(answers(b"-ERR should not be asked\r\n"))
    arguments: dict[str, Any] = {"name": "shuffle", "url": server.place} | wrong
    with pytest.raises(client.InvalidArgumentError) as caught:
        client.register_job(**arguments)
    assert "\n" not in str(caught.value)
    assert server.requests == []


def test_a_registration_is_not_repeated(scripted: Scripted) -> None:
    server = scripted(answers(None))
    with pytest.raises(client.ServerUnavailableError):
        client.register_job("shuffle", url=server.place)
    assert len(server.job_requests()) == 1


def test_the_administrator_registers(scripted: Scripted) -> None:
    server = scripted(answers(b"-NOPERM this needs the administrator's password\r\n"))
    with pytest.raises(client.AccessDeniedError):
        client.register_job("shuffle", url=server.place, admin_password="p@ss/word")
    with pytest.raises(client.AccessDeniedError):
        client.deregister_job(JOB, url=server.place, admin_password="p@ss/word")
    greetings = [request for request in server.requests if request[0] == b"HELLO"]
    assert greetings == [[b"HELLO", b"3", b"AUTH", b"admin", b"p@ss/word"]] * 2
    assert server.job_requests()[1] == [b"JOB.DEREGISTER", JOB.encode()]


def job_at(server: ScriptedServer) -> client.Job:
    return client.Job(f"redis://{JOB}:{TOKEN}@{server.place}")


def test_a_job_is_its_url(scripted: Scripted) -> None:
    job = client.Job(f"redis://{JOB}:{TOKEN}@router:6379")
    copy = pickle.loads(pickle.dumps(job))  # noqa: S301 - our own bytes
    assert (copy.id, copy.url) == (JOB, job.url)
    assert TOKEN not in repr(job)
    with job.connect() as storage:
        assert storage.job_id == JOB
        assert TOKEN not in repr(storage)
    with client.connect("router") as storage:
        assert storage.job_id == "default"
    for url in ("redis://router", "redis://default:x@router", "router:6379", ""):
        with pytest.raises(client.InvalidArgumentError):
            client.Job(url)
    with pytest.raises(client.InvalidArgumentError):
        client.deregister_job(JOB)


def test_a_block_ends_its_job(scripted: Scripted) -> None:
    server = scripted(answers(b"+OK\r\n"))
    with job_at(server) as job:
        assert job.id == JOB
    assert server.job_requests() == [[b"JOB.DEREGISTER", JOB.encode()]]


def test_a_job_that_is_gone_is_no_error_at_the_end_of_its_block(scripted: Scripted) -> None:
    server = scripted(answers(b"-ERR no such job\r\n"))
    with job_at(server):
        pass
    with pytest.raises(client.JobNotFoundError):
        client.deregister_job(job_at(server))
    denied = scripted(answers(b"-WRONGPASS invalid username-password pair\r\n"))
    with pytest.raises(client.JobNotFoundError):
        client.deregister_job(job_at(denied).url)


@pytest.mark.parametrize("then", [b"-ERR no such job\r\n", b"-WRONGPASS invalid\r\n", b"+OK\r\n"])
def test_a_lost_answer_to_the_end_is_no_error(scripted: Scripted, then: bytes) -> None:
    server = scripted(answers(None, then))
    job_at(server).deregister()
    assert server.job_requests() == [[b"JOB.DEREGISTER", JOB.encode()]] * 2


def test_an_error_in_the_block_is_not_hidden_by_one_at_its_end(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted(answers(b"-ERR cannot now\r\n"))
    with pytest.raises(ZeroDivisionError), job_at(server):
        _ = 1 / 0
    assert "is not deregistered: cannot now" in caplog.text
    with pytest.raises(client.CommandRefusedError), job_at(server):
        pass


def test_info_is_plain(scripted: Scripted) -> None:
    nested = b"%2\r\n$2\r\nid\r\n$1\r\nx\r\n$7\r\nservers\r\n*1\r\n%1\r\n$4\r\nused\r\n:7\r\n"
    server = scripted(answers(nested))
    assert job_at(server).info() == {"id": "x", "servers": [{"used": 7}]}
    odd = scripted(answers(b"+OK\r\n"))
    with pytest.raises(client.CommandRefusedError):
        job_at(odd).info()


def test_the_lease_is_kept_until_the_job_ends(scripted: Scripted) -> None:
    renewed = threading.Event()
    count = 0

    def answer(request: list[bytes]) -> bytes:
        nonlocal count
        count += request[0] == b"JOB.RENEW"
        if count >= 3:
            renewed.set()
        return b"+OK\r\n"

    server = scripted(answer)
    job = client.Job(f"redis://{JOB}:{TOKEN}@{server.place}", lease_s=0.03)
    assert renewed.wait(WAIT_TIMEOUT_S)
    job.deregister()
    assert job.lease_error is None
    assert server.job_requests()[-1][0] in {b"JOB.DEREGISTER", b"JOB.RENEW"}


def test_a_lost_lease_is_told(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    server = scripted(answers(b"-ERR no such job\r\n"))
    job = client.Job(f"redis://{JOB}:{TOKEN}@{server.place}", lease_s=0.01)
    for thread in threading.enumerate():
        if thread.name == "pocketkv-lease":
            thread.join(WAIT_TIMEOUT_S)
    assert isinstance(job.lease_error, client.JobNotFoundError)
    assert "lost the lease" in caplog.text
