"""What is compared on logits, on the processor: closed forms, the chains of operations, and the Triton kernels."""

import functools
import math
import os
import subprocess
import sys
import unittest

FULL = "GPU_COMPARE_FULL" in os.environ
if FULL:
    # Before Triton is imported: its kernels run as Python, on arrays.
    os.environ["TRITON_INTERPRET"] = "1"
    import gpu_compare
    import row_summaries as summaries
    import torch

# One row for each: the arg-max, and (largest probability, its lead, the lead of its logit, log-sum-exp, entropy).
THIRD = math.exp(-1)
CLOSED_FORMS = [
    # Equal logits: log n of each.
    ([2.0] * 8, 0, (1 / 8, 0.0, 0.0, 2 + math.log(8), math.log(8))),
    # One id three times as likely as the other: probabilities 3/4 and 1/4.
    ([0.0, math.log(3.0)], 1, (0.75, 0.5, math.log(3), math.log(4), math.log(4) - 0.75 * math.log(3))),
    # A certain id.
    ([0.0, 0.0, 1000.0, 0.0], 2, (1.0, 1.0, 1000.0, 1000.0, 0.0)),
    # 1 and n - 1 ids lower by one nat.
    ([1.0] + [0.0] * 99, 0, (
        1 / (1 + 99 * THIRD), (1 - THIRD) / (1 + 99 * THIRD), 1.0, 1 + math.log(1 + 99 * THIRD),
        math.log(1 + 99 * THIRD) + 99 * THIRD / (1 + 99 * THIRD),
    )),
]

COMPILE = """
import row_summaries as s, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
parts = {"logits": "*bf16", "partials": "*fp32", "places": "*i32", "vocabulary": "i32", "length": "i32", "BLOCK": "constexpr"}
rows = {"partials": "*fp32", "places": "*i32", "ids": "*i32", "columns": "*fp32", "rows": "i32", "parts": "i32", "PARTS": "constexpr"}
for capability in (80, 90):
    target = GPUTarget("cuda", capability, 32)
    for kernel, types, sizes, warps in ((s.summarize_parts, parts, {"BLOCK": 2048}, 8), (s.summarize_rows, rows, {"PARTS": 32}, 1)):
        compiled = triton.compile(ASTSource(kernel, types, sizes), target=target, options={"num_warps": warps})
        assert len(compiled.asm["cubin"]) > 1000
print("compiled")
"""


@unittest.skipUnless(FULL, "needs torch and Triton: tests/gpu_compare/run full")
class Summaries(unittest.TestCase):
    def ways(self, rows, vocabulary):
        yield "top-k", lambda logits: summaries.chain(logits, summaries.two_by_topk)
        yield "masked maximum", lambda logits: summaries.chain(logits, summaries.two_by_mask)
        for way in ((1, 1024, 4), (3, 64, 4), (8, 2048, 8), (64, 512, 4)):
            yield f"Triton, {way}", summaries.Fused(rows, vocabulary, "cpu", *way)

    def test_the_oracle_and_every_way_give_closed_forms(self):
        for logits, best, expected in CLOSED_FORMS:
            close = functools.partial(torch.allclose, torch.tensor(expected, dtype=torch.float64))
            x = torch.tensor([logits], dtype=torch.float32)
            ids, columns = summaries.oracle(x)
            self.assertEqual(ids.tolist(), [best])
            # The oracle gets the logits as float32 rounds them.
            self.assertTrue(close(columns[:, 0], atol=1e-6), columns)
            for name, way in self.ways(1, len(logits)):
                ids, columns = way(x)
                # Of equal ones, any.
                self.assertEqual(logits[ids.item()], logits[best], name)
                self.assertTrue(close(columns[:, 0].double(), atol=1e-5), (name, columns))

    def test_every_way_agrees_with_the_oracle_on_bf16_rows(self):
        torch.manual_seed(5)
        for vocabulary in (5, 1000, 8193, gpu_compare.VOCABULARY):
            logits = (3 * torch.randn(3, vocabulary)).bfloat16()
            for name, way in self.ways(3, vocabulary):
                off = summaries.difference(logits, way(logits))
                self.assertLess(off, gpu_compare.TOLERANCE / 10, (name, vocabulary))

    def test_what_is_off_is_seen(self):
        logits = torch.tensor([[0.0, 1.0, 5.0], [3.0, 1.0, 0.0]]).bfloat16()
        ids, columns = summaries.oracle(logits)
        self.assertEqual(summaries.difference(logits, (ids, columns)), 0.0)
        self.assertEqual(summaries.difference(logits, (ids.flip(0), columns)), math.inf)
        for column in range(len(summaries.COLUMNS)):
            other = columns.clone()
            other[column, 1] += 0.125
            self.assertAlmostEqual(summaries.difference(logits, (ids, other)), 0.125)
            other[column, 1] = math.nan
            self.assertEqual(summaries.difference(logits, (ids, other)), math.inf)

    def test_the_kernels_compile_for_gpus(self):
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILE], capture_output=True, text=True, env=environment, check=False)
        self.assertEqual(done.stdout, "compiled\n", done.stderr)


@unittest.skipUnless(FULL, "needs transformers: tests/gpu_compare/run full")
class Decoding(unittest.TestCase):
    def test_a_generation_has_the_tokens_of_the_whole_model(self):
        import pathlib

        import transformers_decoding

        golden = pathlib.Path(__file__).parents[2] / "common" / "tests" / "golden" / "llama-gqa"
        model = transformers_decoding.load(golden, "cpu").float()
        ids = transformers_decoding.prompt(model)
        self.assertEqual(tuple(ids.shape), (1, transformers_decoding.PREFIX))
        with torch.inference_mode():
            text = ids
            for _ in range(4):
                text = torch.cat([text, model(text).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        for who, settings in transformers_decoding.WAYS.items():
            self.assertTrue(torch.equal(transformers_decoding.generate(model, ids, 4, **settings), text), who)


if __name__ == "__main__":
    unittest.main()
