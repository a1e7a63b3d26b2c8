import json

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from taper_rollout.sample.tokenizer import VOCABULARY_SIZE
from taper_rollout.verl.inputs.rewards import reward_function


def test_the_sample_is_a_job_that_names_its_files(tiny_sample, make_tiny_sample):
    directory = tiny_sample()
    job = make_tiny_sample(directory)
    config = json.loads((directory / "model" / "config.json").read_text())
    assert job.spec.model.path == str(directory / "model")
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["vocab_size"] == VOCABULARY_SIZE
    assert (job.spec.rollout.footprint, job.spec.rollout.degrees) == (2, (1, 2))
    assert reward_function(job.spec.reward.function)("sample", "22", "2") == 1.0


def test_an_existing_sample_is_reused(tiny_sample, make_tiny_sample):
    directory = tiny_sample()
    weights = directory / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    make_tiny_sample(directory)
    assert weights.stat().st_mtime_ns == before


def test_weights_follow_from_the_seed_and_keep_torchs_random_state(tmp_path, make_tiny_sample):
    state = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_tiny_sample(tmp_path / name, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = (load_file(tmp_path / name / "model" / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["lm_head.weight"], c["lm_head.weight"])


def test_prompts_and_digits_survive_the_tokenizer(tiny_sample):
    tokenizer = AutoTokenizer.from_pretrained(tiny_sample() / "model")
    assert len(tokenizer) == VOCABULARY_SIZE
    assert len(tokenizer("02468", add_special_tokens=False)["input_ids"]) == 5
    messages = [{"role": "user", "content": "write 300 even digits"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(ids) <= 32


def test_an_untrained_model_ends_its_answers_at_a_nearly_constant_rate(tiny_sample):
    """Then lengths are geometric: the 99th percentile is log(100) / log(2) = 6.6 times the median."""
    model = AutoModelForCausalLM.from_pretrained(tiny_sample() / "model")
    ids = torch.randint(3, VOCABULARY_SIZE, (8, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ends = torch.softmax(model(ids).logits.double(), dim=-1)[..., model.config.eos_token_id]
    assert 0.5 < ends.mean() * VOCABULARY_SIZE < 2
    assert ends.std() < 0.5 * ends.mean()
