"""The Resend SDK, unchanged, inside vendor tasks: guarded by the worker itself and by luigid's gateway."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import parseaddr
from typing import Any

import pytest
import resend
from resend.exceptions import RateLimitError, ResendError, ValidationError

from luigi_spendguard import BudgetExceeded, SpendDenied, idempotency_key
from luigi_spendguard.money import parse_usd
from tests.support.attempts import Pretender
from tests.support.sdks import MAIL, MAILS, mail
from tests.support.site import RESEND_SECRET, Site
from tests.support.vendors import FakeResend

both_ways = pytest.mark.parametrize("way", ["sync", "async"])


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeResend]:
    vendor = FakeResend(tmp_path_factory.mktemp("resend"))
    yield vendor
    vendor.process.end()


@pytest.fixture(scope="module", params=["worker", "gateway"])
def here(
    request: pytest.FixtureRequest,
    process: FakeResend,
    shared_site: Site,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(request.param)
    gateway = request.param == "gateway"
    with Site(folder, stripe=shared_site.stripe, resend=process, gateway=gateway) as site:
        yield site


@pytest.fixture
def vendor(process: FakeResend) -> FakeResend:
    process.forget()
    return process


@pytest.fixture
def task(here: Site, vendor: FakeResend) -> Pretender:
    return pretender(here)


def pretender(site: Site, **more: Any) -> Pretender:
    unique = uuid.uuid4().hex[:10]
    return Pretender(site, f"run-{unique}", f"Send_{unique}", **more)


@both_ways
def test_a_mail_is_sent_and_on_record(task: Pretender, vendor: FakeResend, way: str) -> None:
    assert resend.api_key is None
    with task.attempt() as attempt:
        assert resend.api_key == attempt.key
        sent = MAILS[way]()
    assert resend.api_key is None
    [request] = vendor.posts()
    assert request["authorization"] == f"Bearer {RESEND_SECRET}"
    assert request["key"]
    [call] = task.site.calls(task.run_id)
    assert (call["operation"], call["state"], call["object_id"]) == ("emails.send", "settled", sent)


@both_ways
def test_a_repeated_attempt_is_answered_as_before(task: Pretender, vendor: FakeResend, way: str) -> None:
    answers = []
    for _ in range(2):
        with task.attempt():
            answers.append(MAILS[way]())
    assert answers[0] == answers[1]
    assert vendor.mails() == 1


@both_ways
def test_the_callers_key_is_the_call(task: Pretender, vendor: FakeResend, way: str) -> None:
    key, other = str(uuid.uuid4()), str(uuid.uuid4())
    with task.attempt():
        first = MAILS[way](idempotency_key=key)
        assert MAILS[way](idempotency_key=key) == first
        assert MAILS[way](idempotency_key=other) != first
        with pytest.raises(ValidationError) as caught:
            MAILS[way]("somebody_else@example.com", idempotency_key=key)
    assert caught.value.reason == "idempotency_mismatch"
    assert vendor.mails() == 2


@both_ways
def test_a_mail_that_the_vendor_may_have_sent_is_sent_again_under_its_key(
    task: Pretender, vendor: FakeResend, way: str
) -> None:
    vendor.fault("drop_after")
    with task.attempt(), pytest.raises(ResendError):
        MAILS[way]()
    with task.attempt():
        MAILS[way]()
    assert vendor.mails() == 1
    assert len({request["key"] for request in vendor.posts()}) == 1
    [call] = task.site.calls(task.run_id)
    assert call["state"] == "settled"


@both_ways
def test_a_denial_by_the_cap(here: Site, vendor: FakeResend, way: str) -> None:
    task = pretender(here, budget_usd="0.0001")
    with task.attempt(), pytest.raises(RateLimitError) as caught:
        MAILS[way]()
    error = caught.value
    assert isinstance(error, BudgetExceeded)
    assert (error.code, error.error_type) == (429, "budget_exhausted")
    assert error.headers["X-Spendguard-Cap-Hit"] == error.headers["X-Keybrake-Cap-Hit"] == "true"
    assert error.facts["run_id"] == task.run_id
    assert vendor.books()["requests"] == []
    assert [call["verdict"] for call in here.calls(task.run_id)] == ["denied:cap"]


def test_thirty_mails_of_an_event_loop_stay_within_the_cap(here: Site, vendor: FakeResend) -> None:
    task = pretender(here, budget_usd="0.0100")

    async def program() -> list[Any]:
        made = ({**MAIL, "to": f"{number}@example.com"} for number in range(30))
        return await asyncio.gather(
            *(resend.Emails.send_async(one) for one in made),
            return_exceptions=True,
        )

    with task.attempt():
        said = asyncio.run(program())
    assert len([answer for answer in said if isinstance(answer, RateLimitError)]) == 30 - 10_000 // 900
    assert vendor.mails() == 10_000 // 900


def test_threads_of_the_task_belong_to_it(task: Pretender, vendor: FakeResend) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mail(f"{number}@example.com")
        except BaseException as error:
            failures.append(error)

    with task.attempt():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert vendor.mails() == 12


def test_what_else_the_sdk_does(task: Pretender, vendor: FakeResend) -> None:
    with task.attempt():
        sent = mail()
        assert resend.Emails.get(sent)["id"] == sent
        soon = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
        later = resend.Emails.send({**MAIL, "to": "b@example.com", "scheduled_at": soon})
        resend.Emails.cancel(later["id"])
        batch = resend.Batch.send([{**MAIL, "to": "c@example.com"}, {**MAIL, "to": "d@example.com"}])
        assert len(batch["data"]) == 2
        for act in (lambda: resend.ApiKeys.create({"name": "x"}), lambda: resend.ApiKeys.remove("k")):
            with pytest.raises(ResendError) as caught:
                act()
            assert caught.value.reason == "endpoint"
    assert vendor.mails() == 3
    assert {request["body"] for request in vendor.books()["requests"] if request["method"] == "GET"} == {""}


def test_a_cancelled_mail_of_a_batch_gives_its_part_back_once(here: Site, vendor: FakeResend) -> None:
    task, later = pretender(here), (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    said = [
        {**MAIL, "to": to, "scheduled_at": later} for to in (["b@a.co", "c@a.co"], ["d@a.co"], ["e@a.co"])
    ]
    with task.attempt():
        sent = [one["id"] for one in resend.Batch.send(said)["data"]]
        assert spent(task) == 4 * 900
        resend.Emails.cancel(sent[0])
        assert spent(task) == vendor.mails() * 900 == 2 * 900
    with task.attempt():  # The task is tried again.
        resend.Emails.cancel(sent[0])
        assert spent(task) == 2 * 900
    other = pretender(here)
    with other.attempt():  # Another one cancels what is cancelled, and then the next one.
        with pytest.raises(ValidationError):
            resend.Emails.cancel(sent[0])
        resend.Emails.cancel(sent[1])
    assert (spent(task), spent(other)) == (vendor.mails() * 900, 0) == (900, 0)
    [batch] = [call for call in here.calls(task.run_id) if call["operation"] == "batch.send"]
    assert [one["usd"] for one in batch["corrections"]] == ["-0.0018", "-0.0009"]


def test_of_a_permissive_batch_the_mails_that_were_taken_are_known(here: Site, vendor: FakeResend) -> None:
    task, later = pretender(here), (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    bad = {"from": "a@a.co", "to": ["x@a.co"] * 3, "scheduled_at": later}  # It has no subject.
    said = [bad, {**MAIL, "to": ["b@a.co", "c@a.co"], "scheduled_at": later}]
    with task.attempt():
        taken = resend.Batch.send(said, {"batch_validation": "permissive"})["data"]
        assert spent(task) == vendor.mails() * 900 == 2 * 900
        resend.Emails.cancel(taken[0]["id"])
    assert spent(task) == vendor.mails() == 0


def spent(task: Pretender) -> int:
    """Return what a task's run has spent, in micro-dollars."""
    return parse_usd(task.site.run(task.run_id)["spent_usd"])


@both_ways
def test_another_accounts_key_is_denied_and_on_record(
    task: Pretender, vendor: FakeResend, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with task.attempt():
        monkeypatch.setattr(resend, "api_key", "re_another_account")
        with pytest.raises(ResendError) as caught:
            MAILS[way]()
        monkeypatch.undo()
    assert isinstance(caught.value, SpendDenied)
    assert caught.value.reason == "scope"
    assert "re_another" not in str(caught.value)
    assert vendor.books()["requests"] == []
    assert [call["verdict"] for call in task.site.calls(task.run_id)] == ["denied:scope"]


@both_ways
def test_a_revoked_run(here: Site, vendor: FakeResend, way: str) -> None:
    task = pretender(here)
    with task.attempt():
        assert here.call("DELETE", f"/runs/{task.run_id}")[0] == 200
        with pytest.raises(resend.exceptions.InvalidApiKeyError) as caught:
            MAILS[way]()
    assert (caught.value.reason, caught.value.code) == ("revoked", 401)
    assert vendor.books()["requests"] == []


def test_a_parameter_that_is_not_known_does_not_leave(task: Pretender, vendor: FakeResend) -> None:
    """Of what is free, too: who knows what it costs."""
    with task.attempt():
        resend.Segments.create({"name": "known"})
        with pytest.raises(ResendError, match="knows no such parameter") as caught:
            resend.Segments.create({"name": "s", "send": True})
        assert caught.value.reason == "unpriced"
    assert [json.loads(request["body"]) for request in vendor.posts()] == [{"name": "known"}]


# Several recipients.

PEOPLE = ["b@a.co", "c@a.co", "d@a.co"]


def mailed(vendor: FakeResend) -> dict[str, int]:
    """Return how often each has got a mail, by the vendor's books."""
    said = [one for entry in vendor.sent() if not entry["cancelled"] for one in entry["recipients"]]
    everybody = [parseaddr(one)[1].lower() for one in said]
    return {one: everybody.count(one) for one in sorted(set(everybody))}


def batch(*said: dict[str, Any], **options: Any) -> Any:
    return resend.Batch.send([{**MAIL, **one} for one in said], options or None)["data"]


def one_mail(**said: Any) -> Any:
    return resend.Emails.send({**MAIL, **said})["id"]


#: What a task says before it dies, and what it says when it is tried again.
CHANGED: dict[str, tuple[Any, Any]] = {
    "one more": (lambda: one_mail(to=PEOPLE), lambda: one_mail(to=[*PEOPLE, "e@a.co"])),
    "one less": (lambda: one_mail(to=PEOPLE), lambda: one_mail(to=PEOPLE[1:])),
    "another": (lambda: one_mail(to=PEOPLE), lambda: one_mail(to=[*PEOPLE[1:], "e@a.co"])),
    "as a copy": (lambda: one_mail(to=PEOPLE), lambda: one_mail(to="e@a.co", cc=PEOPLE[:1])),
    "of blind copies": (
        lambda: one_mail(to="a@a.co", bcc=PEOPLE),
        lambda: one_mail(to="a@a.co", bcc=[*PEOPLE, "e@a.co"]),
    ),
    "in other letters": (lambda: one_mail(to=PEOPLE), lambda: one_mail(to=["B <B@A.co>", "e@a.co"])),
    "with another text": (lambda: one_mail(to=PEOPLE), lambda: one_mail(to=PEOPLE[:2], text="Bye")),
    "one of them": (lambda: one_mail(to=PEOPLE), lambda: one_mail(to=PEOPLE[0])),
    "with one of before": (lambda: one_mail(to="b@a.co"), lambda: one_mail(to=PEOPLE)),
    "a longer batch": (
        lambda: batch({"to": "b@a.co"}, {"to": "c@a.co"}),
        lambda: batch({"to": "b@a.co"}, {"to": "c@a.co"}, {"to": "d@a.co"}),
    ),
    "a batch of them": (lambda: one_mail(to=PEOPLE), lambda: batch({"to": "b@a.co"}, {"to": "e@a.co"})),
    "one of a batch": (lambda: batch({"to": "b@a.co"}, {"to": "c@a.co"}), lambda: one_mail(to="c@a.co")),
}


@pytest.mark.parametrize("name", CHANGED)
def test_who_has_a_mail_of_the_task_that_died_gets_it_once(here: Site, vendor: FakeResend, name: str) -> None:
    task, (first, again) = pretender(here), CHANGED[name]
    with task.attempt():
        first()
    before = mailed(vendor)
    with task.attempt():
        with pytest.raises(ValidationError, match="they would get it twice") as caught:
            again()
        assert caught.value.reason == "idempotency_mismatch"
    assert mailed(vendor) == before
    with task.attempt():  # As the denial advises.
        first()
        one_mail(to="f@a.co")
    assert mailed(vendor) == before | {"f@a.co": 1}
    with task.attempt():
        again_by_key(again)
    assert max(mailed(vendor).values()) == 2


def again_by_key(again: Any) -> None:
    """Make a call as another one."""
    with idempotency_key(f"another-{uuid.uuid4().hex[:6]}-one"):
        again()


def test_a_mail_whose_reply_was_lost_is_not_made_again_for_others(
    task: Pretender, vendor: FakeResend
) -> None:
    vendor.fault("drop_after")
    with task.attempt():
        with pytest.raises(ResendError):
            one_mail(to=PEOPLE)
        with pytest.raises(ResendError, match="they would get it twice"):
            one_mail(to=[*PEOPLE, "e@a.co"])
        one_mail(to=PEOPLE)
    assert mailed(vendor) == dict.fromkeys(PEOPLE, 1)


def test_two_mails_of_an_attempt_may_have_a_copy_in_common(task: Pretender, vendor: FakeResend) -> None:
    for _ in range(2):  # And so when the task is tried again, with one more.
        with task.attempt():
            for to in ("b@a.co", "c@a.co"):
                one_mail(to=to, bcc="archive@a.co")
            one_mail(to="b@a.co", cc="c@a.co")
    with task.attempt():
        for to in ("b@a.co", "c@a.co"):
            one_mail(to=to, bcc="archive@a.co")
        one_mail(to="b@a.co", cc="c@a.co")
        one_mail(to="d@a.co", bcc="archive@a.co")
    assert mailed(vendor) == {"archive@a.co": 3, "b@a.co": 2, "c@a.co": 2, "d@a.co": 1}


def test_the_next_time_and_another_task_may_have_another_list(here: Site, vendor: FakeResend) -> None:
    task = pretender(here)
    with task.attempt("completed"):
        one_mail(to=PEOPLE)
    with task.attempt():
        one_mail(to=[*PEOPLE, "e@a.co"])
    with pretender(here).attempt():
        one_mail(to=PEOPLE[:2])
    assert mailed(vendor) == {"b@a.co": 3, "c@a.co": 3, "d@a.co": 2, "e@a.co": 1}
