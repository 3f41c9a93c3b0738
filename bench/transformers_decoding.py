"""Plain greedy decoding of one sequence by Hugging Face transformers, in bf16."""

import statistics
import time

import torch
import transformers

# Positions before the measured ones, as in `dssd bench decode`.
PREFIX = 64
TOKENS = 64
# Of the short generation: prompt and first steps, in which graphs may be recorded anew, are in both and cancel out.
BEGINNING = 8
ROUNDS = 5
SEED = 1


def load(folder, device):
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    return model.to(device).eval()


def prompt(model):
    torch.manual_seed(SEED)
    return torch.randint(model.config.vocab_size, (1, PREFIX)).to(model.device)


def generate(model, ids, tokens, **settings):
    """Exactly so many tokens behind `ids`, greedily."""
    with torch.inference_mode():
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
            **settings,
        )


def step_seconds(model, rounds=ROUNDS, **settings):
    """A token behind prompt and beginning: the median over pairs of a long and a short generation."""
    ids = prompt(model)

    def seconds(tokens):
        synchronize(model.device)
        begun = time.perf_counter()
        found = generate(model, ids, tokens, **settings)
        synchronize(model.device)
        if found.shape[1] != ids.shape[1] + tokens:
            raise RuntimeError(f"{found.shape[1] - ids.shape[1]} tokens came, not {tokens}")
        return time.perf_counter() - begun

    # Compilers run, and caches are filled.
    for _ in range(2):
        seconds(BEGINNING + TOKENS)
        seconds(BEGINNING)
    pairs = ((seconds(BEGINNING + TOKENS), seconds(BEGINNING)) for _ in range(rounds))
    return statistics.median((long - short) / TOKENS for long, short in pairs)


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# How each way calls `generate`: with a static cache the library compiles the pass by itself.
WAYS = {
    "transformers, eager": {},
    "transformers, static cache, compiled": {"cache_implementation": "static"},
}
