"""Decoders, as `transformers` builds them: GPT-2, Llama and Mixtral against closed forms.

What the closed forms are made of is in `architecture_counts`.
"""

import pytest
import torch
import transformers
from architecture_counts import (
    BATCH,
    FUSED,
    HEAD,
    HEADS,
    INNER,
    LAYERS,
    ROWS,
    TOKENS,
    VOCAB,
    WIDTH,
    attention_of,
    both_attentions,
    check,
    ids,
    linear,
    scores,
    step,
)
from torch.utils._python_dispatch import TorchDispatchMode

from computemeter import Meter

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


# GPT-2: one matrix for queries, keys and values, one after them, two of the MLP; the head is the
# embedding once more.


def gpt2(attention="eager", dropout=0.0, **options):
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_positions=16,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=INNER,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
        **options,
    )
    return transformers.GPT2LMHeadModel(config).train()


# One layer: 2*24 * (32*96 + 32*32 + 2 * 32*80) = 442,368; the head: 2*24 * 32*97 = 148,992; one
# product of attention: 2 * 8*144*8 = 18,432.
GPT2_LAYER = (
    linear(ROWS, WIDTH, 3 * WIDTH) + linear(ROWS, WIDTH, WIDTH) + 2 * linear(ROWS, WIDTH, INNER)
)
GPT2_HEAD = linear(ROWS, WIDTH, VOCAB)
GPT2 = 3 * (LAYERS * GPT2_LAYER + GPT2_HEAD) + LAYERS * attention_of(TOKENS, TOKENS)


@both_attentions
def test_gpt2(attention):
    # 3 * (2 * 442,368 + 148,992) + 2 * 6 * 18,432; fused, each layer's scores once more
    tokens = ids()
    count = step(gpt2(attention), input_ids=tokens, labels=tokens)
    check(count, GPT2, LAYERS * 18_432 if attention == "sdpa" else 0)
    assert GPT2 == 3_322_368


@both_attentions
def test_gpt2_with_dropout_counts_the_same_and_is_not_fused_on_a_cpu(attention):
    # The fused kernel has no dropout: PyTorch multiplies matrices instead, and keeps the scores.
    tokens = ids()
    count = step(gpt2(attention, dropout=0.1), input_ids=tokens, labels=tokens)
    check(count, GPT2, recomputed=0)
    assert FUSED not in count.by_op


@both_attentions
def test_gpt2_on_a_padded_batch_counts_the_padding(attention):
    tokens, mask = ids(), torch.ones(BATCH, TOKENS, dtype=torch.long)
    mask[0, 8:] = 0
    count = step(gpt2(attention), input_ids=tokens, attention_mask=mask, labels=tokens)
    check(count, GPT2, LAYERS * 18_432 if attention == "sdpa" else 0)


def test_gpt2_inference_is_a_third_of_its_linear_layers_and_of_its_attention():
    # One product of each three and of each six two: 3,322,368 / 3, of eager and fused alike.
    for attention in ("eager", "sdpa"):
        model, tokens = gpt2(attention).eval(), ids()
        with torch.no_grad():
            check(Meter.count(model, tokens), GPT2 // 3)


def test_a_head_of_its_own_costs_what_the_tied_one_costs():
    # The embedding's share of the tied weight's gradient is a sum over rows, no product.
    tokens = ids()
    model = gpt2(tie_word_embeddings=False)
    assert model.lm_head.weight is not model.transformer.wte.weight
    check(step(model, input_ids=tokens, labels=tokens), GPT2)


def test_freezing_a_tied_embedding_saves_the_gradient_of_the_head():
    # And only that: the first layer's norm is trained, so its input gradient is still needed.
    model, tokens = gpt2(), ids()
    model.transformer.wte.weight.requires_grad_(requires_grad=False)
    model.transformer.wpe.weight.requires_grad_(requires_grad=False)
    check(step(model, input_ids=tokens, labels=tokens), GPT2 - GPT2_HEAD)


@both_attentions
def test_training_only_the_last_layer_of_gpt2(attention):
    # Below it only forward; the tied head has no weight gradient but passes its input's on.
    model, tokens = gpt2(attention), ids()
    model.requires_grad_(requires_grad=False)
    model.transformer.h[-1].requires_grad_(requires_grad=True)
    trained = 3 * GPT2_LAYER + attention_of(TOKENS, TOKENS)
    below = (LAYERS - 1) * (GPT2_LAYER + 2 * scores(TOKENS, TOKENS))
    count = step(model, input_ids=tokens, labels=tokens)
    check(count, trained + below + 2 * GPT2_HEAD, 18_432 if attention == "sdpa" else 0)


@both_attentions
def test_gradient_checkpointing_of_gpt2_is_recomputation(attention):
    # Every layer runs again up to the last thing that its backward pass needs, the input of the
    # MLP's second matrix: all but that matrix's product. Fused, the scores a third time.
    model, tokens = gpt2(attention), ids()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = GPT2_LAYER - linear(ROWS, INNER, WIDTH) + 2 * scores(TOKENS, TOKENS)
    fused = scores(TOKENS, TOKENS) if attention == "sdpa" else 0
    count = step(model, input_ids=tokens, labels=tokens, use_cache=False)
    check(count, GPT2, LAYERS * (again + fused))


# Llama: 2 heads of keys and values serve 4 of queries. The matrices of keys and values are half as
# wide; scores and values are products of all 4 heads, shared or not. Rotation is pointwise.

KV_HEADS = 2
LLAMA_ATTENTION = (
    linear(ROWS, WIDTH, WIDTH)
    + 2 * linear(ROWS, WIDTH, KV_HEADS * HEAD)
    + linear(ROWS, WIDTH, WIDTH)
)


def llama_options(attention):
    return {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 16,
        "attn_implementation": attention,
    }


# 3 * (2 * 2*24 * (32*32 + 2 * 32*16 + 32*32 + 3 * 32*80) + 2*24 * 32*97) + 2 * 6 * 18,432
LLAMA = 3 * (
    LAYERS * (LLAMA_ATTENTION + 3 * linear(ROWS, WIDTH, INNER)) + linear(ROWS, WIDTH, VOCAB)
) + LAYERS * attention_of(TOKENS, TOKENS)


@both_attentions
@pytest.mark.parametrize("tied", [False, True])
def test_llama_with_grouped_queries(attention, tied):
    config = transformers.LlamaConfig(**llama_options(attention), tie_word_embeddings=tied)
    tokens = ids()
    count = step(transformers.LlamaForCausalLM(config).train(), input_ids=tokens, labels=tokens)
    assert LLAMA == 3_764_736
    check(count, LLAMA, LAYERS * 18_432 if attention == "sdpa" else 0)


# Mixtral: Llama's attention, a router over all experts, and for every token the 2 best of 4
# experts, three matrices each: 24 * 2 = 48 rows, however they are spread. A count from the
# parameters has all 4 experts for every token, twice what runs.

EXPERTS, CHOSEN = 4, 2
MIXTRAL = 3 * (
    LAYERS
    * (LLAMA_ATTENTION + linear(ROWS, WIDTH, EXPERTS) + 3 * linear(ROWS * CHOSEN, WIDTH, INNER))
    + linear(ROWS, WIDTH, VOCAB)
) + LAYERS * attention_of(TOKENS, TOKENS)


def mixtral(attention, experts):
    config = transformers.MixtralConfig(
        **llama_options(attention),
        num_local_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        experts_implementation=experts,
    )
    return transformers.MixtralForCausalLM(config).train()


@both_attentions
@pytest.mark.parametrize(
    "experts",
    [
        "eager",  # one product for each expert that has a token
        "batched_mm",  # one product for each row, with its expert's matrix
        "grouped_mm",  # one product for all: the default of transformers 5
    ],
)
def test_mixtral_counts_the_experts_that_ran(attention, experts):
    tokens = ids()
    count = step(mixtral(attention, experts), input_ids=tokens, labels=tokens)
    assert MIXTRAL == 6_013_440
    check(count, MIXTRAL, LAYERS * 18_432 if attention == "sdpa" else 0)


def test_mixtral_counts_the_same_however_the_tokens_are_spread():
    # Routers that see no difference send all tokens to the same 2 experts; the other 2 multiply
    # nothing, and their weights have no gradient of their own.
    model, tokens = mixtral("eager", "eager"), ids()
    used = []

    def see_routing(_module, _inputs, outputs):
        used.append(outputs[-1].unique().numel())

    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(see_routing)
        torch.nn.init.zeros_(layer.mlp.gate.weight)
    check(step(model, input_ids=tokens, labels=tokens), MIXTRAL)
    assert used == [CHOSEN] * LAYERS


def test_grouped_experts_are_one_operator():
    # Gate and up are one matrix; with the other, 3 * 2*48 * 32*80 a layer, and so their gradients.
    tokens = ids()
    count = step(mixtral("eager", "grouped_mm"), input_ids=tokens, labels=tokens)
    grouped = LAYERS * 3 * 3 * linear(ROWS * CHOSEN, WIDTH, INNER)
    assert count.by_op["aten::_grouped_mm"] == grouped == 4_423_680


# What a causal mask could save. Attention is counted dense; of a sequence of S tokens, S*(S - 1)/2
# of the S*S pairs are masked, of every one of the six products alike.


def causal_share(total, layers, tokens, product):
    """Share of a step that a causal mask could skip; `product` is one dense product."""
    return layers * 6 * product * (tokens - 1) / (2 * tokens) / total


def test_a_causal_mask_could_skip_the_pairs_above_the_diagonal():
    # 11 * 12 / 2 = 66 of 144 pairs: 2 * 6 * 18,432 * 66 / 144 = 101,376
    assert causal_share(GPT2, LAYERS, TOKENS, 18_432) == 101_376 / 3_322_368  # 3.1 %
    assert causal_share(LLAMA, LAYERS, TOKENS, 18_432) == 101_376 / 3_764_736  # 2.7 %


@pytest.mark.parametrize(
    ("layers", "width", "matrices", "tokens", "share"),
    [
        # GPT-2 small, 12 * 12 * 768^2 in the layers, 768 * 50,257 in the head
        pytest.param(12, 768, 84_934_656 + 38_597_376, 1024, 0.066, id="gpt2"),
        # Llama 2 7B: 32 * (4 * 4,096^2 + 3 * 4,096 * 11,008), head 4,096 * 32,000
        pytest.param(32, 4096, 6_476_005_376 + 131_072_000, 4096, 0.070, id="llama-2-7b"),
        # Llama 3 8B: 32 * (2.5 * 4,096^2 + 3 * 4,096 * 14,336), head 4,096 * 128,256
        pytest.param(32, 4096, 6_979_321_856 + 525_336_576, 8192, 0.111, id="llama-3-8b"),
        # the same at 131,072 tokens
        pytest.param(32, 4096, 7_504_658_432, 131_072, 0.410, id="llama-3-8b, 128k"),
    ],
)
def test_share_of_real_sizes(layers, width, matrices, tokens, share):
    # A step is 6 FLOPs for each weight and token; a product of attention 2 * S*S * width.
    product = 2 * tokens**2 * width
    total = 6 * matrices * tokens + 6 * layers * product
    assert causal_share(total, layers, tokens, product) == pytest.approx(share, abs=0.0005)


class SeesFused(TorchDispatchMode):
    """Notes what the fused operators are told of the mask."""

    def __init__(self):
        super().__init__()
        self.told = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._schema.name.startswith(FUSED):
            names = [argument.name for argument in func._schema.arguments]
            arguments = dict(zip(names, args, strict=False)) | kwargs
            masked = arguments.get("attn_mask") is not None
            self.told.append((arguments.get("is_causal", False), masked))
        return func(*args, **kwargs)


@pytest.mark.parametrize("padded", [False, True])
def test_a_fused_operator_is_told_that_it_is_causal_unless_there_is_padding(padded):
    # With padding, `transformers` builds one mask of both, and nobody can tell what is in it.
    tokens, mask = ids(), torch.ones(BATCH, TOKENS, dtype=torch.long)
    mask[0, 8:] = 0 if padded else 1
    model = gpt2("sdpa")
    with SeesFused() as seen:
        model(input_ids=tokens, attention_mask=mask, labels=tokens).loss.backward()
    assert seen.told == [(not padded, padded)] * 2 * LAYERS
