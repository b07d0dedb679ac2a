"""Whether `peft` reads our adapters as we do: logits of Hugging Face's Gemma 4 with the adapter, against ours.

    node bench/peft/logits.mjs MODEL.gguf ADAPTER logits.json
    python3 bench/peft/check.py MODEL.gguf ADAPTER logits.json

MODEL is a dense Gemma 4 in F16 or F32, whose weights both sides hold exactly; ADAPTER is a folder as `lapidary
finetune` or `lapidary export --peft` writes it. Needs torch, transformers with Gemma 4, and peft. Exits with 1 where a
logit differs by more than 1e-2.
"""

import json
import struct
import sys

import numpy
import torch
from peft import PeftModel
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4ForCausalLM

TOLERANCE = 1e-2
NAMES = {
    "token_embd": "embed_tokens",
    "per_layer_token_embd": "embed_tokens_per_layer",
    "per_layer_model_proj": "per_layer_model_projection",
    "per_layer_proj_norm": "per_layer_projection_norm",
    "output_norm": "norm",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
    "layer_output_scale": "layer_scalar",
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
}


def read_gguf(path):
    """Its metadata, and its tensors as float32 arrays."""
    data = open(path, "rb").read()
    at = 24
    tensors, entries = struct.unpack_from("<QQ", data, 8)

    def number(form):
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def text():
        nonlocal at
        size = number("Q")
        at += size
        return data[at - size : at].decode("utf-8", "replace")

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            of = number("I")
            return [value(of) for _ in range(number("Q"))]
        return number("BbHhIif?xxQqd"[kind])

    meta = {}
    for _ in range(entries):
        key = text()
        meta[key] = value(number("I"))
    table = []
    for _ in range(tensors):
        name = text()
        shape = [number("Q") for _ in range(number("I"))][::-1]
        table.append((name, shape, number("I"), number("Q")))
    start = (at + 31) // 32 * 32
    arrays = {}
    for name, shape, kind, offset in table:
        if kind not in (0, 1):
            sys.exit(f"{name} is not in F16 or F32: both sides must hold the same weights")
        raw = numpy.frombuffer(data, ("<f4", "<f2")[kind], numpy.prod(shape), start + offset)
        arrays[name] = raw.astype(numpy.float32).reshape(shape)
    return meta, arrays


def hf_name(name):
    parts = name.split(".")
    if parts[0] != "blk":
        return NAMES.get(parts[0]) and f"model.{NAMES[parts[0]]}.weight"
    suffix = "" if parts[2] == "layer_output_scale" else ".weight"
    return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}{suffix}"


def load_base(path):
    meta, arrays = read_gguf(path)
    get = lambda key: meta["gemma4." + key]
    one = lambda x: x[0] if isinstance(x, list) else x
    sliding = get("attention.sliding_window_pattern")
    feed_forward = get("feed_forward_length")
    vocabulary, hidden = arrays["token_embd.weight"].shape
    config = Gemma4TextConfig(
        vocab_size=vocabulary,
        vocab_size_per_layer_input=vocabulary,
        hidden_size=hidden,
        hidden_size_per_layer_input=get("embedding_length_per_layer_input"),
        intermediate_size=one(feed_forward),
        use_double_wide_mlp=isinstance(feed_forward, list) and len(set(feed_forward)) > 1,
        num_hidden_layers=get("block_count"),
        num_attention_heads=get("attention.head_count"),
        num_key_value_heads=one(get("attention.head_count_kv")),
        num_kv_shared_layers=get("attention.shared_kv_layers"),
        head_dim=get("attention.key_length_swa"),
        global_head_dim=get("attention.key_length"),
        layer_types=["sliding_attention" if s else "full_attention" for s in sliding],
        sliding_window=get("attention.sliding_window"),
        final_logit_softcapping=get("final_logit_softcapping"),
        max_position_embeddings=get("context_length"),
    )
    model = Gemma4ForCausalLM(config).float().eval()
    wanted = model.state_dict()
    given = {}
    for name, array in arrays.items():
        key = hf_name(name)
        if key in wanted:
            given[key] = torch.from_numpy(array).reshape(wanted[key].shape)
    missing, _ = model.load_state_dict(given, strict=False)
    missing = [key for key in missing if "lm_head" not in key and "rotary" not in key]
    # Layers that share keys and values may have parameters of their own there, which nothing reads.
    print("not in the file:", missing)
    return model


def worst(model, prompts, key):
    """The largest difference of a logit after the last token of each prompt."""
    most = 0.0
    for prompt in prompts:
        with torch.no_grad():
            logits = model(torch.tensor([prompt["ids"]])).logits[0, -1].double().numpy()
        difference = abs(logits - numpy.array(prompt[key])).max()
        print(f"{key:8} {prompt['name']:12} largest difference {difference:.2e}")
        most = max(most, difference)
    return most


def main():
    path, adapter, found = sys.argv[1:4]
    prompts = json.load(open(found))
    model = load_base(path)
    most = worst(model, prompts, "base")
    model = PeftModel.from_pretrained(model, adapter).eval()
    names = [name for name, _ in model.named_parameters() if "lora_" in name]
    print(f"peft made {len(names)} matrices of {adapter}")
    most = max(most, worst(model, prompts, "adapted"))
    sys.exit(0 if names and most <= TOLERANCE else 1)


main()
