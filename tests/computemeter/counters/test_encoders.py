"""Architectures with an encoder, as `transformers` builds them: BERT, T5, ViT and Whisper.

What the closed forms are made of is in `architecture_counts`.
"""

import pytest
import torch
import transformers
from architecture_counts import (
    BATCH,
    HEADS,
    INNER,
    LAYERS,
    ROWS,
    TARGET_ROWS,
    TARGETS,
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

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


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
