"""LoRA's adapters beside frozen weights: counts by hand."""

import pytest
import torch
from meter_loops import quiet
from small_runs import BATCH, HIDDEN, INPUTS
from stacks import FIRST, SECOND, THIRD, batches, stack, train


def test_lora_on_linear_layers():
    peft = pytest.importorskip("peft")
    rank = 2
    config = peft.LoraConfig(r=rank, target_modules=["0", "2"], lora_dropout=0.1)
    model = peft.get_peft_model(stack(), config)
    summary = train(model, batches(BATCH, BATCH - 1))
    # The frozen first layer: forward only, as the data needs no gradient. Its adapter: forward
    # and weight gradient of A (12 -> 2); all three of B (2 -> 16).
    first = FIRST + 2 * (2 * INPUTS * rank) + 3 * (2 * rank * HIDDEN)
    # The frozen second layer passes the gradient of its input on, and its adapter takes part.
    second = 2 * SECOND + 3 * (2 * HIDDEN * rank) + 3 * (2 * rank * HIDDEN)
    # The frozen head, without an adapter: forward and the gradient of its input.
    assert summary.model_flops == (2 * BATCH - 1) * (first + second + 2 * THIRD)
    assert summary.hardware_flops == summary.model_flops
    assert summary.trainable_parameters == rank * (INPUTS + HIDDEN + HIDDEN + HIDDEN)


def test_lora_with_a_head_trained_in_full():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, target_modules=["2"], modules_to_save=["4"])
    summary = train(peft.get_peft_model(stack(), config), batches(BATCH, BATCH))
    # What comes before the adapter is forward only, and so is the frozen base at its side: its
    # input needs no gradient.
    adapter = 2 * (2 * HIDDEN * 3) + 3 * (2 * 3 * HIDDEN)
    assert summary.model_flops == 2 * BATCH * (FIRST + SECOND + adapter + 3 * THIRD)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_on_a_transformer(attention, checkpointing):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    width, keys, inner, vocabulary, rank = 16, 8, 24, 32, 2  # 4 heads of 4, 2 of them for keys
    examples, length = 3, 6
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model = peft.get_peft_model(
        model, peft.LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
    )
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        # So that the embeddings' output needs a gradient: `train` of this library does the same.
        model.enable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with quiet() as meter:
        for _ in range(2):
            tokens = torch.randint(0, vocabulary, (examples, length))
            with meter.step(tokens):
                model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    tokens = examples * length
    query = 2 * tokens * width * width
    key = value = 2 * tokens * width * keys
    out = query
    into_rank = 2 * tokens * width * rank  # A of either adapter
    from_rank = 2 * tokens * rank * (width + keys)  # B of the query's and the value's
    mlp = 3 * 2 * tokens * width * inner
    product = 2 * examples * length * length * width  # scores, or their product with the values
    head = 2 * tokens * width * vocabulary
    frozen = query + key + value
    # No frozen weight has a gradient: forward, and the gradient of the input where that is needed.
    rest = 2 * out + 2 * mlp
    second = 2 * frozen + 3 * (2 * into_rank) + 3 * from_rank + 6 * product + rest
    if checkpointing:
        # The embeddings' output needs a gradient, so the first layer is as the second.
        first = second
    else:
        # Its input needs none. The keys have no adapter, so unfused attention leaves their
        # gradient out, 5 products; the fused kernel makes all gradients in one, 6.
        products = 6 if attention == "sdpa" else 5
        first = frozen + 2 * (2 * into_rank) + 3 * from_rank + products * product + rest
    summary = meter.summary()
    assert summary.model_flops == 2 * (first + second + 2 * head)
    # Hardware: the fused backward repeats the scores once a layer. Checkpointing repeats the
    # forward of a layer up to what the backward needs: all but the last product of the MLP.
    layer = frozen + 2 * into_rank + from_rank + 2 * product + out + mlp * 2 // 3
    again = (attention == "sdpa") * 2 * product + checkpointing * 2 * layer
    assert summary.hardware_flops - summary.model_flops == 2 * again
    assert summary.uncounted_ops == {}
    assert summary.warnings == ()
