"""Multiply-accumulates (MACs) in closed form: of the stem, of gates, of a block with a given policy, of the classifier.

Plain arithmetic on counts, so that the same formulas serve Python numbers, arrays and differentiable tensors.

How it is counted
- A linear layer from a to b features costs a·b a token; a bias nothing.
- A layer normalisation costs 5 an element, as in the published tables. A block's second one is counted always, the
  first where attention runs; the final one belongs to `classifier_macs`.
- Attention of h kept heads (w = h·D/H channels) over t kept tokens costs 3·t·D·w (query, key, value), 2·t²·w (scores
  and their use) and t·w·D (projection).
- **The deliberate difference to the published tables**: they count the projection of h kept heads as t·w·w, as if it
  produced only w of the D channels. It produces all D, so t·w·(D − w) more are counted here: nothing with all heads
  kept, at most 1.9 % of a dense DeiT-S block and 2.2 % of a T2T-ViT-19 one (at half of the heads), 1.8 % of an image
  with a random policy on average.
- The gates themselves are counted too, where the tables leave them out: 0.02 % of DeiT-S.
- An MLP of hidden width M over h kept heads costs t·M·(w + D) where a skipped head is zero in the input; where it is
  zero in the hidden layer, h·M/H of its channels are left for both linear layers, which cost t·(h·M/H)·(D + D).
- With full head gating and no head kept, both sub-layers give a constant that does not depend on the image, so they
  cost nothing; the published tables have no such entry.
- Exponentials and squares of the performer's random features are left out, like all work on single elements.
"""

from keras import ops

NORM_MACS = 5  # an element
LEAST_CONV_WIDTH = 16  # channels


def attention_macs(tokens, heads, *, width, num_heads, partial_heads=False):
    """MACs of one attention sub-layer, its normalisation left out.

    Args:
        tokens: Kept tokens, class token included: number or tensor.
        heads: Kept heads: number or tensor.
        width: Width D.
        num_heads: Heads H.
        partial_heads: Whether a skipped head passes its values on, so that all values are computed.

    Returns:
        MACs, of the broadcast shape of `tokens` and `heads`.
    """
    kept = heads * (width // num_heads)  # channels of kept heads
    query_key = 2 * tokens * width * kept
    scores = 2 * tokens * tokens * kept
    value_and_projection = 2 * tokens * width * (width if partial_heads else kept)
    return query_key + scores + value_and_projection


def mlp_macs(tokens, heads, *, width, num_heads, mlp_dim, full_heads=True, mlp_heads="input"):
    """MACs of one MLP sub-layer, its normalisation left out.

    Args:
        tokens: Tokens that the MLP computes: number or tensor.
        heads: Kept heads: number or tensor; with `full_heads` only their channels count.
        width: Width D.
        num_heads: Heads H.
        mlp_dim: Width of the hidden layer.
        full_heads: Whether heads are gated fully.
        mlp_heads: Which channels are those of the heads, `"input"` or `"hidden"`, as in `GateConfig`.

    Returns:
        MACs, of the broadcast shape of `tokens` and `heads`.
    """
    if not full_heads:
        return 2 * tokens * width * mlp_dim
    if mlp_heads == "hidden":
        return 2 * tokens * width * heads * (mlp_dim // num_heads)
    kept = heads * (width // num_heads)
    return tokens * mlp_dim * (kept + width * ops.minimum(heads, 1))


def block_macs(policy, *, width, num_heads, mlp_dim, heads="full", gate_mlp_tokens=True, mlp_heads="input"):
    """MACs of every block under a policy, gates left out.

    Args:
        policy: Dict of `token_keep` (B, L, T), `head_keep` (B, L, H), `block_keep` (B, L, 2).
        width, num_heads, mlp_dim: Sizes of a block.
        heads: `"full"`, `"partial"` or `None`, as in `GateConfig`.
        gate_mlp_tokens: Whether skipped tokens skip the MLP too.
        mlp_heads: `"input"` or `"hidden"`, as in `GateConfig`.

    Returns:
        Float32 tensor (B, L), differentiable in the policy.
    """
    num_tokens = policy["token_keep"].shape[-1]
    tokens = ops.sum(policy["token_keep"], axis=-1)  # (B, L)
    kept_heads = ops.sum(policy["head_keep"], axis=-1)  # (B, L)
    attention, mlp = policy["block_keep"][..., 0], policy["block_keep"][..., 1]
    norm = NORM_MACS * num_tokens * width
    sizes = {"width": width, "num_heads": num_heads}
    attention_cost = attention_macs(tokens, kept_heads, **sizes, partial_heads=heads == "partial")
    mlp_tokens = tokens if gate_mlp_tokens else num_tokens
    sizes |= {"mlp_dim": mlp_dim, "mlp_heads": mlp_heads}
    mlp_cost = mlp_macs(mlp_tokens, kept_heads, **sizes, full_heads=heads == "full")
    return attention * (attention_cost + norm) + mlp * mlp_cost + norm


def gate_macs(num_tokens, *, width, num_heads, tokens, heads, blocks, context=False):
    """MACs of one block's gates, each a linear layer: `num_tokens` tokens, and which of the three gates it has.

    With `context` the gate of tokens reads the class token too.
    """
    rows = (num_tokens - 1 + bool(context)) * bool(tokens) + num_heads * bool(heads) + 2 * bool(blocks)
    return width * rows


def patch_embedding_macs(image_size, patch_size, channels, width):
    """MACs of the patch embedding: a linear layer of every patch."""
    return (image_size // patch_size) ** 2 * patch_size**2 * channels * width


def tokens_to_token_macs(image_size, channels, width, *, token_width, performer):
    """MACs of the tokens-to-token stem, with its performers or transformers: 7×7, 3×3 and 3×3 patches, 16 pixels apart.

    Per token of E = `token_width` channels: query, key and value, projection and an MLP of width E, two normalisations;
    a performer of m = E/2 features adds the features of query and key, and two products and a sum with them.
    """
    total, inputs = 0, 49 * channels
    for stride in (4, 8):
        tokens = (image_size // stride) ** 2
        linear = token_width * (3 * inputs + 3 * token_width) + NORM_MACS * (inputs + token_width)
        features = token_width // 2
        attention = features * (4 * token_width + 1) if performer else 2 * tokens * token_width
        total += tokens * (linear + attention)
        inputs = 9 * token_width
    return total + (image_size // 16) ** 2 * inputs * width


def conv_stem_widths(patch_size, width):
    """Channels of each 3×3 convolution of the convolutional stem: they double up to `width`, and are 16 or more.

    Args:
        patch_size: A power of two from 2.
        width: Width D of a token, 16 or more.

    Returns:
        A list of log2(patch_size) ints.
    """
    count = patch_size.bit_length() - 1
    return [max(LEAST_CONV_WIDTH, width // 2 ** (count - number)) for number in range(1, count + 1)]


def conv_stem_macs(image_size, patch_size, channels, width):
    """MACs of the convolutional stem: 3×3 convolutions of stride 2, each with a normalisation, and a 1×1 convolution.

    Padding is counted as pixels are.
    """
    total, side = 0, image_size
    for outputs in conv_stem_widths(patch_size, width):
        side //= 2
        total += side**2 * outputs * (9 * channels + NORM_MACS)
        channels = outputs
    return total + side**2 * channels * width


def stem_macs(stem, *, image_size, patch_size, channels, width, token_width):
    """MACs of a stem of one of the kinds of `AdaViTBackbone`."""
    if stem == "patch":
        return patch_embedding_macs(image_size, patch_size, channels, width)
    if stem == "conv":
        return conv_stem_macs(image_size, patch_size, channels, width)
    performer = stem == "t2t_performer"
    return tokens_to_token_macs(image_size, channels, width, token_width=token_width, performer=performer)


def dense_blocks_macs(num_tokens, *, width, depth, num_heads, mlp_dim):
    """MACs of `depth` blocks without gates over `num_tokens` tokens: an int."""
    sizes = {"width": width, "num_heads": num_heads}
    block = attention_macs(num_tokens, num_heads, **sizes) + 2 * NORM_MACS * num_tokens * width
    return depth * (block + mlp_macs(num_tokens, num_heads, **sizes, mlp_dim=mlp_dim, full_heads=False))


def classifier_macs(num_tokens, width, num_classes):
    """MACs of the final normalisation and the classifier."""
    return NORM_MACS * num_tokens * width + width * num_classes
