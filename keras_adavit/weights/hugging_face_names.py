"""What Hugging Face's ViT and DeiT files call a weight, as the published files call it."""

import re

PREFIX = re.compile(r"(vit|deit)\.")  # of the backbone in a classifier; the file of a backbone alone has none
LAYERS = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "pooler.dense": "pooler.dense",
    "classifier": "head",
    "cls_classifier": "head",
    "distillation_classifier": "head_dist",
}
ARRAYS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.distillation_token": "dist_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.mask_token": "mask_token",
}
# A block's layers, as files have them and as models of transformers 5 do.
BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)")
BLOCK_LAYERS = {
    "attention.attention.query": "attn.query",
    "attention.attention.key": "attn.key",
    "attention.attention.value": "attn.value",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.q_proj": "attn.query",
    "attention.k_proj": "attn.key",
    "attention.v_proj": "attn.value",
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def published_name(name):
    """The published name of a weight that Hugging Face calls `name`; any other name as it is."""
    bare = PREFIX.sub("", name, count=1) if PREFIX.match(name) else name
    if bare in ARRAYS:
        return ARRAYS[bare]
    layer, _, parameter = bare.rpartition(".")
    if layer in LAYERS:
        return f"{LAYERS[layer]}.{parameter}"
    block = BLOCK.fullmatch(layer)
    if block and block[2] in BLOCK_LAYERS:
        return f"blocks.{block[1]}.{BLOCK_LAYERS[block[2]]}.{parameter}"
    return name
