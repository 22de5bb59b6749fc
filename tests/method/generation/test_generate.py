"""Banks from a server on the loopback: what is asked, what is kept, what goes wrong."""

import json
import time

import pytest

from mpafer_jax.config.schema import HardPromptsSection
from mpafer_jax.method.hard_prompts.bank import load_bank
from mpafer_jax.method.hard_prompts.generation import chat
from mpafer_jax.method.hard_prompts.generation.answers import load_budget
from mpafer_jax.method.hard_prompts.generation.backends import Sampling
from mpafer_jax.method.hard_prompts.generation.generate import Wanted, generate, partial_path
from mpafer_jax.method.hard_prompts.generation.questions import QUESTIONS
from mpafer_jax.method.hard_prompts.templates import configured_hard_prompts
from mpafer_jax.runtime.errors import GenerationError, UnavailableError
from tests.method.generation import chat_server
from tests.method.generation.chat_server import Fail, Raw, Say, Silence, good, in_turn, serve

BUDGET = load_budget("tiny-face-clip")
SOON = {"Retry-After": "0.01"}
NO_KEY = chat.Key("", "OPENAI_API_KEY")


def endpoint(server, *, model=chat_server.MODEL, key=NO_KEY, **options):
    options = {"sampling": Sampling(), "timeout": 20.0, "retries": 3, **options}
    return chat.ChatEndpoint(server.url, model, key=key, **options)


def make(server, out, wanted=None, *, overwrite=False, budget=BUDGET, **options):
    return generate(
        wanted or Wanted(("fear",), ("mouth",), 1), endpoint(server, **options), budget, out, overwrite=overwrite
    )


def answer(*texts, units=(12,)):
    return Say(json.dumps({"descriptions": [{"text": text, "action_units": list(units)} for text in texts]}))


def test_a_bank_is_asked_for_checked_and_usable(tmp_path):
    wanted = Wanted(("happily_surprised", "boredom"), tuple(QUESTIONS), paraphrases=2)
    out = tmp_path / "banks" / "mine.json"
    with serve() as server:
        outcome = make(server, out, wanted, sampling=Sampling(0.3, 7, 400))
    assert (outcome.asked, outcome.reused, outcome.failures) == (14, 0, ())
    assert [path.name for path in out.parent.iterdir()] == ["mine.json"]

    first = server.requests[0]
    assert first.asked == (
        "What are the most useful visual features to distinguish the facial expression of happily surprised? "
        "Give 2 descriptions of the same features, each in other words and complete in itself."
    )
    assert "eyelids to distinguish the facial expression of boredom?" in server.questions()[9]
    assert {name: first.body[name] for name in ("temperature", "seed", "max_tokens")} == {
        "temperature": 0.3,
        "seed": 7,
        "max_tokens": 400,
    }
    assert "authorization" not in first.headers
    bound = first.body["response_format"]
    assert (bound["type"], bound["json_schema"]["strict"]) == ("json_schema", True)
    assert every_object_is_closed(bound["json_schema"]["schema"]) == 2

    assert '        {"text": "' in out.read_text()
    assert '", "action_units": [6, 12]},\n' in out.read_text()
    bank = load_bank(str(out))
    assert bank.name == "mine"
    said = bank.texts("happily surprised", "mouth")
    assert [text.action_units for text in said] == [(6, 12), (6, 12)]
    assert bank.provenance.model == chat_server.MODEL
    assert bank.provenance.reported_models == (chat_server.REPORTED,)
    assert bank.provenance.endpoints == (server.url,)
    assert bank.provenance.answer_formats == ("json_schema",)
    assert bank.provenance.questions == QUESTIONS
    assert (bank.provenance.temperature, bank.provenance.seed) == (0.3, 7)
    assert bank.provenance.corrected == ()
    section = HardPromptsSection(
        bank=(str(out),), type=3, granularity=("mouth", "holistic"), paraphrases=0, combine="separate"
    )
    groups = configured_hard_prompts(section, ("boredom",)).groups
    assert [len(group.texts[0]) for group in groups] == [2, 2]
    assert groups[0].texts[0][1].startswith("a photo of a person making a facial expression of boredom, with ")


def every_object_is_closed(schema):
    """Strict modes want it; returns how many objects there are."""
    found = 0
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is False
            assert set(schema["required"]) == set(schema["properties"])
            found = 1
        schema = list(schema.values())
    return found + (sum(map(every_object_is_closed, schema)) if isinstance(schema, list) else 0)


def test_nothing_is_sent_that_was_not_chosen(tmp_path):
    with serve() as server:
        make(server, tmp_path / "b.json")
    assert set(server.requests[0].body) == {"model", "messages", "response_format"}


def test_failures_that_pass_are_waited_for_as_the_server_says(tmp_path):
    steps = (Fail(429, headers={"Retry-After": "0.6"}), Fail(500, headers=SOON), Fail(503, headers=SOON))
    with serve(in_turn(*steps)) as server:
        make(server, tmp_path / "b.json")
    assert len(server.requests) == 4
    assert server.requests[1].at - server.requests[0].at >= 0.6  # the client's own first wait is 0.5 s at most
    assert load_bank(str(tmp_path / "b.json")).texts("fear", "mouth")


def test_a_slow_server_is_asked_again(tmp_path):
    with serve(in_turn(Silence(30))) as server:
        make(server, tmp_path / "b.json", timeout=0.5)
        assert len(server.requests) == 2
        server.behave = in_turn(Silence(30))
        with pytest.raises(UnavailableError, match=r"no answer within 0.5 s \(--timeout\), asked 1 times"):
            make(server, tmp_path / "c.json", timeout=0.5, retries=0)


@pytest.mark.parametrize(
    ("action", "tries", "message"),
    [
        (Fail(500, "out of memory", SOON), 3, r"500 - out of memory; asked 3 times at most \(--retries\)"),
        (Fail(429, "slow down", {"Retry-After": "3600"}), 1, "429 - slow down; .*; to be asked again in 3600 s"),
    ],
)
def test_failures_that_stay_end_the_run_and_keep_what_there_is(tmp_path, action, tries, message):
    out = tmp_path / "b.json"
    with serve(in_turn(good, then=lambda _: action)) as server:
        started = time.monotonic()
        with pytest.raises(UnavailableError, match=message):
            make(server, out, Wanted(("fear", "anger"), ("mouth",), 1), retries=2)
    assert time.monotonic() - started < 60
    assert len(server.requests) == 1 + tries
    assert not out.exists()
    assert len(partial_path(out).read_text().splitlines()) == 1


def test_a_server_that_is_not_there(tmp_path):
    with serve() as server:
        pass
    with pytest.raises(UnavailableError, match=f"{server.url} cannot be reached: .*refused.*Is the server running"):
        make(server, tmp_path / "b.json", retries=0)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (Fail(401, "no entry for sk-secret"), r"401 - no entry for \[MY_KEY\]; the key in .* variable MY_KEY was sent"),
        (Fail(403, "no"), "403 - no; the key in the environment variable MY_KEY"),
        (Fail(402, "pay first"), "402 - pay first"),
        (Fail(400, "context too small"), "refuses the request for model 'tiny-1': .*400 - context too small"),
        (Raw("<html>hello</html>", "text/html"), "not with what chat/completions answers; .* lack /v1"),
        (Raw("{"), "not with what chat/completions answers"),
        (Raw('{"choices": []}'), "not with what chat/completions answers"),
    ],
)
def test_what_would_be_refused_again_is_not_asked_again(tmp_path, action, message):
    key = chat.Key("sk-secret", "MY_KEY")
    with serve(lambda _: action) as server, pytest.raises(GenerationError, match=message) as caught:
        make(server, tmp_path / "b.json", key=key)
    assert "sk-secret" not in f"{caught.value}{caught.value.__cause__}{key}"
    assert server.requests[0].headers["authorization"] == "Bearer sk-secret"
    assert len(server.requests) == (3 if action == Fail(400, "context too small") else 1)  # once for each answer format


def test_without_a_key_and_with_the_wrong_model(tmp_path):
    with serve(lambda _: Fail(401, "who are you?")) as server:
        with pytest.raises(
            GenerationError, match="no key was sent, since the environment variable OPENAI_API_KEY is not"
        ):
            make(server, tmp_path / "b.json")
        with pytest.raises(GenerationError, match="no model huge; --model is 'huge', the models there are tiny-1"):
            make(server, tmp_path / "b.json", model="huge")
        server.url = server.url.removesuffix("/v1")
        with pytest.raises(GenerationError, match=r"no such page; it lists no models either; does .* lack /v1"):
            make(server, tmp_path / "b.json")


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://me:sk-x@host/v1",
        "https://host/v1?k=sk-x",
        "http://localhost:80o0/v1",
        "http://[::1/v1",
    ],
)
def test_addresses_that_are_refused_and_not_repeated(address):
    with pytest.raises(GenerationError, match="--endpoint") as caught:
        chat.ChatEndpoint(address, "m", key=NO_KEY, sampling=Sampling())
    assert "sk-x" not in str(caught.value)


def test_an_answer_that_cannot_be_used_is_sent_back_with_the_reason(tmp_path):
    steps = (Say("I cannot say."), answer("raised brows", "raised brows"), answer("a look of fear"))
    with serve(in_turn(*steps)) as server:
        make(server, tmp_path / "b.json")
    back = [request.body["messages"][-1]["content"] for request in server.requests[1:]]
    assert "not JSON of the form asked for" in back[0]
    assert "exactly 1 descriptions, not 2" in back[1]
    assert "two descriptions are the same" in back[1]
    assert "names an expression (fear)" in back[2]
    # The model sees the question and its last answer, not the whole exchange.
    last = server.requests[3].body["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "user"]
    assert "a look of fear" in last[2]["content"]
    assert load_bank(str(tmp_path / "b.json")).provenance.corrected == ("fear/mouth",)


def test_texts_that_are_too_long_for_clip_are_shortened_or_given_up(tmp_path):
    endless = answer(" ".join(["raised and curved brows"] * 30))
    with serve(in_turn(endless)) as server:
        make(server, tmp_path / "b.json")
    assert "is too long with 120 words" in server.requests[1].body["messages"][-1]["content"]
    assert load_bank(str(tmp_path / "b.json")).provenance.corrected == ("fear/mouth",)

    names = ("fear", "anger", "sadness", "disgust", "contempt")
    with serve(lambda request: good(request) if "anger" in request.asked else endless) as server:
        outcome = make(server, tmp_path / "c.json", Wanted(names, ("mouth",), 1, corrections=1))
        assert len(outcome.failures) == 4
        assert outcome.failures[0].startswith("fear, mouth: no usable answer in 2, the last one: description 1 is too")
        assert (
            outcome.failures[3]
            == "contempt, mouth: no usable answer in 2, the last one: "
            + outcome.failures[0].partition("the last one: ")[2]
        )
        assert not (tmp_path / "c.json").exists()
        before = len(server.requests)
        again = make(server, tmp_path / "c.json", Wanted((*names, "surprise"), ("mouth",), 1, corrections=0))
        assert again.failures[3:] == tuple(
            f"{name}, mouth: not asked, since 3 questions in a row had failed" for name in ("contempt", "surprise")
        )
        assert len(server.requests) == before + 3


def test_servers_that_refuse_a_schema_are_asked_in_words(tmp_path, caplog):
    def old_server(request):
        kind = request.body.get("response_format", {}).get("type")
        if kind == "json_schema":
            return Fail(400, "response_format.type must be text or json_object")
        return good(request) if kind == "json_object" else Fail(500)

    out = tmp_path / "b.json"
    with serve(old_server) as server:
        make(server, out, Wanted(("fear",), ("mouth", "brows"), 1))
    kinds = [request.body["response_format"]["type"] for request in server.requests]
    assert kinds == ["json_schema", "json_object", "json_object"]
    assert "must be text or json_object); asking for json_object from now on" in caplog.text
    assert load_bank(str(out)).provenance.answer_formats == ("json_object",)

    def older_server(request):
        if "response_format" in request.body:
            return Fail(422, "unknown field")
        said = good(request).text
        return Say(f"<think>Perhaps {{this}}?</think>Here it is:\n```json\n{said}\n```")

    with serve(older_server) as server:
        make(server, out, Wanted(("fear",), ("mouth", "brows"), 1), overwrite=True)
    assert len(server.requests) == 4
    assert load_bank(str(out)).provenance.answer_formats == ("text",)


def test_the_limit_of_an_answer_goes_by_the_name_that_the_server_knows(tmp_path):
    def new_server(request):
        if "max_tokens" in request.body:
            return Fail(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return good(request)

    with serve(new_server) as server:
        make(server, tmp_path / "b.json", Wanted(("fear",), ("mouth", "brows"), 1), sampling=Sampling(max_tokens=50))
    assert [request.body.get("max_completion_tokens") for request in server.requests] == [None, 50, 50]
    assert all(request.body["response_format"]["type"] == "json_schema" for request in server.requests)


def test_a_file_that_is_there_stays_unless_told_otherwise(tmp_path):
    out = tmp_path / "b.json"
    out.write_text("mine")
    with serve() as server:
        with pytest.raises(GenerationError, match=r"b.json exists; name another file, or replace it with --overwrite"):
            make(server, out)
        assert (out.read_text(), server.requests) == ("mine", [])
        make(server, out, overwrite=True)
        assert load_bank(str(out)).provenance
        with pytest.raises(GenerationError, match="is no file"):
            make(server, tmp_path, overwrite=True)


def test_answers_are_kept_for_as_long_as_they_fit(tmp_path):
    out = tmp_path / "b.json"
    wanted = Wanted(("fear", "anger", "disgust"), ("mouth",), 1)
    with serve(in_turn(good, good, then=lambda _: Fail(401))) as server:
        with pytest.raises(GenerationError):
            make(server, out, wanted)
        server.behave = good
        server.requests.clear()
        # Other words, another model or other sampling are other questions; a tighter budget checks the answers anew.
        with pytest.raises(GenerationError):
            make(server, out, wanted, model="huge")
        assert make(server, tmp_path / "other.json", wanted).reused == 0
        assert make(server, out, wanted).reused == 2
        assert [name for name in wanted.class_names if name in server.questions()[-1]] == ["disgust"]
        assert not partial_path(out).exists()

        server.behave = in_turn(answer("level brows and " * 6 + "lines"), then=lambda _: Fail(401))
        with pytest.raises(GenerationError):
            make(server, out, wanted, overwrite=True)
        server.behave = good
        tight = load_budget("tiny-face-clip", 30)
        assert make(server, out, wanted, overwrite=True, budget=tight).reused == 0


def test_impossible_wishes():
    for names, granularities, message in (
        ((), ("mouth",), "classes: found no class, expected at least 1; names with commas"),
        (("fear", "Afraid"), ("mouth",), "classes: 'fear' and 'Afraid' are the same class, 'fear'"),
        (("fear",), ("mouth", "mouth"), "granularities must be names .* each once, found"),
        (("fear",), ("mouth", "ears"), "granularities ears do not exist; they are holistic, brows"),
    ):
        with pytest.raises(GenerationError, match=message):
            Wanted(names, granularities)
