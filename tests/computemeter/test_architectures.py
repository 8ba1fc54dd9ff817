"""Real architectures, as `transformers` builds them, against closed forms of their configurations.

Random weights, small sizes. In the closed forms `linear(rows, inputs, outputs)` is one product of
a linear layer and `scores(...)` one of the two products of an attention, 2 FLOPs per multiply-add.
Training a layer takes three products: the
output, the gradient of the weight and that of the input. The input's is needed from the very first
layer on where an embedding below is trained, and is not where the input is data: the patches of an
image, the frames of a sound. A lookup in an embedding, a softmax, a norm and a rotation multiply
nothing with anything that is summed: zeros, forward and backward.

Eager attention keeps the probabilities for the backward pass. A fused kernel does not: it computes
the scores once more, which is hardware and not model FLOPs. PyTorch's kernel for the CPU is used
where there is neither dropout on the probabilities nor a bias to be trained.
"""

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from computemeter import Meter

BATCH, TOKENS, TARGETS = 2, 12, 7
VOCAB, WIDTH, HEADS, INNER, LAYERS = 97, 32, 4, 80, 2
HEAD = WIDTH // HEADS
ROWS = BATCH * TOKENS  # 24
TARGET_ROWS = BATCH * TARGETS  # 14
FUSED = "aten::_scaled_dot_product_flash_attention_for_cpu"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

both_attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def linear(rows, inputs, outputs):
    return 2 * rows * inputs * outputs


def scores(queries, keys, head=HEAD):
    """FLOPs of queries by keys, and as many of probabilities by values."""
    return 2 * BATCH * HEADS * queries * keys * head


def attention_of(queries, keys, head=HEAD):
    """FLOPs of both products forward, and of the four gradients of their factors."""
    return 6 * scores(queries, keys, head)


def check(count, model, recomputed=0):
    assert count.uncounted_ops == {}
    assert count.model_flops == model
    assert count.hardware_flops - count.model_flops == recomputed
    assert sum(count.by_op.values()) == model


def ids(length=TOKENS):
    return torch.randint(3, VOCAB, (BATCH, length))


def step(model, **inputs):
    """Count one training step: forward, the model's own loss, backward."""

    def train():
        model(**inputs).loss.backward()

    return Meter.count(train)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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


# BERT: four matrices of attention and two of the MLP; the head has one of its own before the
# embedding once more, and runs over all tokens, masked or not.

BERT_LAYER = 4 * linear(ROWS, WIDTH, WIDTH) + 2 * linear(ROWS, WIDTH, INNER)


def bert_options(attention):
    return {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": 16,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "attn_implementation": attention,
    }


@both_attentions
@pytest.mark.parametrize("padded", [False, True])
def test_bert(attention, padded):
    # 3 * (2 * 442,368 + 2*24 * (32*32 + 32*97)) + 2 * 6 * 18,432
    model = transformers.BertForMaskedLM(transformers.BertConfig(**bert_options(attention))).train()
    tokens, mask = ids(), torch.ones(BATCH, TOKENS, dtype=torch.long)
    mask[0, 8:] = 0 if padded else 1
    count = step(model, input_ids=tokens, attention_mask=mask, labels=tokens)
    head = linear(ROWS, WIDTH, WIDTH) + linear(ROWS, WIDTH, VOCAB)
    expected = 3 * (LAYERS * BERT_LAYER + head) + LAYERS * attention_of(TOKENS, TOKENS)
    assert expected == 3_469_824
    check(count, expected, LAYERS * 18_432 if attention == "sdpa" else 0)


@both_attentions
def test_bert_that_classifies_reads_the_first_token_only(attention):
    # The pooler and the classifier have one row of an example: 2*2 * (32*32 + 32*5).
    config = transformers.BertConfig(**bert_options(attention), num_labels=5)
    model = transformers.BertForSequenceClassification(config).train()
    count = step(model, input_ids=ids(), labels=torch.tensor([1, 4]))
    head = linear(BATCH, WIDTH, WIDTH) + linear(BATCH, WIDTH, 5)
    expected = 3 * (LAYERS * BERT_LAYER + head) + LAYERS * attention_of(TOKENS, TOKENS)
    check(count, expected, LAYERS * 18_432 if attention == "sdpa" else 0)


# T5: heads are wider than the model shared among them (4 * 16 = 64 for 32). The relative positions
# are looked up and added to the scores, no product. Encoder: four matrices of attention, two or
# three of the MLP. Decoder: the same over the targets, and attention to the source, whose keys and
# values have a row for each source token. The head is the embedding once more.

T5_HEAD = 16
T5_INNER = HEADS * T5_HEAD


@both_attentions
@pytest.mark.parametrize(("mlp", "matrices"), [("relu", 2), ("gated-gelu", 3)])
def test_t5(attention, mlp, matrices):
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=WIDTH,
        d_kv=T5_HEAD,
        d_ff=INNER,
        num_layers=LAYERS,
        num_heads=HEADS,
        dropout_rate=0.0,
        feed_forward_proj=mlp,
        decoder_start_token_id=0,
        attn_implementation=attention,
    )
    model = transformers.T5ForConditionalGeneration(config).train()
    count = step(model, input_ids=ids(), labels=ids(TARGETS))

    source = linear(ROWS, WIDTH, T5_INNER)  # 98,304
    target = linear(TARGET_ROWS, WIDTH, T5_INNER)  # 57,344
    encoder = 4 * source + matrices * linear(ROWS, WIDTH, INNER)
    decoder = 4 * target + (2 * target + 2 * source) + matrices * linear(TARGET_ROWS, WIDTH, INNER)
    products = LAYERS * (encoder + decoder) + linear(TARGET_ROWS, WIDTH, VOCAB)
    attentions = (
        attention_of(TOKENS, TOKENS, T5_HEAD)
        + attention_of(TARGETS, TARGETS, T5_HEAD)
        + attention_of(TARGETS, TOKENS, T5_HEAD)
    )
    expected = 3 * products + LAYERS * attentions
    assert expected == {2: 9_049_728, 3: 10_217_088}[matrices]
    # The positions of both self-attentions are trained, and a fused kernel has no gradient for
    # what is added to the scores; between decoder and encoder there are none: 2 * 8*84*16.
    check(count, expected, LAYERS * 21_504 if attention == "sdpa" else 0)


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


# ViT: 4*4 patches of 4*4*3 values, and the class token: 17 tokens. The image is data: no gradient
# for the patches. The head reads the class token only.

PATCHES = 16
CLASSES = 10


@both_attentions
def test_vit(attention):
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        image_size=16,
        patch_size=4,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=attention,
    )
    model = transformers.ViTForImageClassification(config).train()
    images, labels = torch.randn(BATCH, 3, 16, 16), torch.tensor([1, 2])
    count = step(model, pixel_values=images, labels=labels)

    patches = linear(BATCH * PATCHES, 48, WIDTH)  # a convolution: 2*32 * 48*32 = 98,304
    rows = BATCH * (PATCHES + 1)
    layer = 4 * linear(rows, WIDTH, WIDTH) + 2 * linear(rows, WIDTH, INNER)  # 626,688
    expected = (
        2 * patches
        + 3 * (LAYERS * layer + linear(BATCH, WIDTH, CLASSES))
        + LAYERS * attention_of(PATCHES + 1, PATCHES + 1)
    )
    assert expected == 4_404_480
    # scores of 17*17: 2 * 8*289*8
    check(count, expected, LAYERS * 36_992 if attention == "sdpa" else 0)


# Whisper: 20 frames of 8 bands, a convolution over 3 frames, and another that halves them: 10
# positions for the encoder. The sound is data: the first convolution has no input gradient. The
# decoder attends to itself and to the encoder; the head is the embedding once more.

FRAMES, BANDS = 20, 8
POSITIONS = FRAMES // 2


def whisper(attention):
    config = transformers.WhisperConfig(
        vocab_size=VOCAB,
        num_mel_bins=BANDS,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=INNER,
        decoder_ffn_dim=INNER,
        max_source_positions=POSITIONS,
        max_target_positions=16,
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        attn_implementation=attention,
    )
    return transformers.WhisperForConditionalGeneration(config).train()


# 2*2*20 * 32*8*3 = 61,440 and 2*2*10 * 32*32*3 = 122,880
CONV1 = linear(BATCH * FRAMES, 3 * BANDS, WIDTH)
CONV2 = linear(BATCH * POSITIONS, 3 * WIDTH, WIDTH)
SOUND = linear(BATCH * POSITIONS, WIDTH, WIDTH)  # one matrix over the encoder's positions: 40,960
TEXT = linear(TARGET_ROWS, WIDTH, WIDTH)  # over the targets: 28,672
WHISPER_ENCODER = LAYERS * (4 * SOUND + 2 * linear(BATCH * POSITIONS, WIDTH, INNER))
# its own attention, queries and output of the other; MLP
WHISPER_DECODER = LAYERS * (4 * TEXT + 2 * TEXT + 2 * linear(TARGET_ROWS, WIDTH, INNER))
WHISPER_HEAD = linear(TARGET_ROWS, WIDTH, VOCAB)
# keys and values of the encoder's positions for the decoder
WHISPER_MEMORY = LAYERS * 2 * SOUND


@both_attentions
def test_whisper(attention):
    sound = torch.randn(BATCH, BANDS, FRAMES)
    count = step(whisper(attention), input_features=sound, labels=ids(TARGETS))
    products = CONV2 + WHISPER_ENCODER + WHISPER_MEMORY + WHISPER_DECODER + WHISPER_HEAD
    expected = (
        2 * CONV1
        + 3 * products
        + LAYERS * attention_of(POSITIONS, POSITIONS)
        + LAYERS * attention_of(TARGETS, TARGETS)
        + LAYERS * attention_of(TARGETS, POSITIONS)
    )
    assert expected == 5_684_352
    # fused, all three: 2*8*8 * (100 + 49 + 70) a layer
    check(count, expected, LAYERS * 28_032 if attention == "sdpa" else 0)


@both_attentions
def test_whisper_with_a_frozen_encoder(attention):
    # The usual fine-tuning. The encoder runs forward only; the decoder's matrices for its keys and
    # values are trained, but what they read needs no gradient: two products of three.
    model = whisper(attention)
    model.freeze_encoder()
    sound = torch.randn(BATCH, BANDS, FRAMES)
    count = step(model, input_features=sound, labels=ids(TARGETS))
    expected = (
        CONV1
        + CONV2
        + WHISPER_ENCODER
        + LAYERS * 2 * scores(POSITIONS, POSITIONS)
        + 2 * WHISPER_MEMORY
        + 3 * (WHISPER_DECODER + WHISPER_HEAD)
        + LAYERS * attention_of(TARGETS, TARGETS)
        + LAYERS * attention_of(TARGETS, POSITIONS)
    )
    assert expected == 3_636_352
    check(count, expected, LAYERS * 2 * 8 * 8 * (49 + 70) if attention == "sdpa" else 0)


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
