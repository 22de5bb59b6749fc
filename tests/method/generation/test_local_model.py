"""The transformers backend, with a model that knows one answer by heart."""

import json

import pytest

from mpafer_jax.method.hard_prompts.bank import load_bank
from mpafer_jax.method.hard_prompts.generation.answers import load_budget
from mpafer_jax.method.hard_prompts.generation.backends import Sampling
from mpafer_jax.method.hard_prompts.generation.generate import Wanted, generate
from mpafer_jax.method.hard_prompts.generation.local_model import LocalModel
from mpafer_jax.method.hard_prompts.generation.questions import ask
from mpafer_jax.runtime.errors import GenerationError
from tests import needs

pytestmark = pytest.mark.torch

torch = needs.module("torch")
WANTED = Wanted(("fear",), ("mouth",), 1, corrections=0)
ANSWER = json.dumps({"descriptions": [{"text": "lips stretched wide", "action_units": [20]}]})
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}:{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 of one layer whose next token depends on the position alone: behind the question comes the answer.

    Its blocks add nothing, its token embedding is zero, the embedding of position i is the i-th unit vector's stand-in
    for the token that follows there, and the output layer reads it off.
    """
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate([*alphabet, "<end>"])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    tokenizer.chat_template = TEMPLATE
    prompt = tokenizer.apply_chat_template(list(ask("fear", "mouth", 1)), add_generation_prompt=True, return_dict=True)
    start, said = len(prompt["input_ids"]), [*tokenizer(ANSWER)["input_ids"], tokenizer.eos_token_id]

    width = len(tokenizer)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=width,
            n_positions=start + len(said),
            n_embd=width,
            n_layer=1,
            n_head=1,
            tie_word_embeddings=False,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.eos_token_id,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.ln_f.weight.fill_(1.0)
        model.lm_head.weight.copy_(torch.eye(width))
        for offset, token in enumerate(said):
            model.transformer.wpe.weight[start - 1 + offset, token] = 1.0
    path = tmp_path_factory.mktemp("language_model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_it_writes_a_bank(folder, tmp_path):
    out = tmp_path / "b.json"
    outcome = generate(WANTED, LocalModel(str(folder), sampling=Sampling()), load_budget("tiny-face-clip"), out)
    assert outcome.failures == ()
    bank = load_bank(str(out))
    assert [(text.text, text.action_units) for text in bank.texts("fear", "mouth")] == [("lips stretched wide", (20,))]
    assert (bank.provenance.backend, bank.provenance.endpoints) == ("transformers", ())
    assert bank.provenance.answer_formats == ("text",)


def test_an_answer_that_does_not_end_is_cut_off_and_sampling_follows_the_seed(folder):
    messages = ask("fear", "mouth", 1)
    cut = LocalModel(str(folder), sampling=Sampling(max_tokens=10)).reply(messages)
    assert (cut.text, cut.cut_off) == (ANSWER[:10], True)
    hot = [LocalModel(str(folder), sampling=Sampling(100.0, seed, 20)).reply(messages).text for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def test_models_that_cannot_be_asked(folder, tmp_path):
    with pytest.raises(GenerationError, match="cannot be asked: "):
        LocalModel(str(tmp_path), sampling=Sampling())
    for path in folder.iterdir():
        if "template" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(GenerationError, match="cannot be asked: it has no chat template"):
        LocalModel(str(tmp_path), sampling=Sampling())


def test_a_chat_template_that_refuses_a_role_is_said(folder):
    model = LocalModel(str(folder), sampling=Sampling())
    model._tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TEMPLATE
    )
    with pytest.raises(GenerationError, match=r"refuses messages of the roles system, user \(System role not supp"):
        model.reply(ask("fear", "mouth", 1))
