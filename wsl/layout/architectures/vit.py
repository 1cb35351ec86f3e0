"""The Vision Transformer of timm (`timm.models.VisionTransformer`), in its common forms.

With or without class, register and distillation tokens, position embedding, pre-norm layer, layer scale, biases, q/k
norm, gated MLP, parallel branches (`ParallelThingsBlock`), attention and MLP side by side (`ParallelScalingBlock`, its output
projections apart), attention pooling; no head, a linear head (also the distilled pair) or an MLP head. Some forms change the
meaning of a tensor:

- a q/k norm standardises each head's features and thereby blocks the invertible maps of `qk`; the key bias is before it. Its
  features are permuted in all heads alike, the scale of a feature passes from queries to keys, and a norm that removes the mean
  (with a shift, or known to be a LayerNorm) lets queries and keys have any;
- a gated MLP multiplies its values, which have no activation: a factor of each passes into `fc2`, unless a norm stands between;
- a packed gated MLP stacks gate and value in one `fc1`, twice as tall as `fc2` is wide. Which half is the gate is known of a model
  alone, and without that nothing has factors;
- registers are permuted where the position embedding has no rows of theirs (`no_embed_class`, known of a model alone);
- the two heads of a distilled model are averaged, so outputs depend on the sum of their biases. Exchanging the two tokens together
  with their heads is a symmetry, too, but not of one axis, and the table does not have it;
- parallel branches add their biases, so outputs depend on the sum of these alone;
- a `ParallelScalingBlock` reads MLP, queries, keys and values off one projection. Where that has no bias, the MLP has one of its
  own, which overlaps with the projection of the norm's shift: this one null direction is not folded;
- attention pooling has a stream of its own, which the head reads without a norm; its queries are one constant vector;
- without a final norm (`final_norm=False`) outputs depend on the mean of the stream;
- a maximum over tokens (`global_pool` of `max` or `avgmax`) depends on the mean of each token and on every rotation: it is refused.

State dicts of other models with the same names and shapes (norms after the sum as in `ResPostBlock`, rotary positions as in
timm's `Eva`, a maximum over tokens) cannot be told from these.
"""

import re

CLASSES = {
    "": ("timm.VisionTransformer",),
    r"blocks\.\d+": ("timm.Block", "timm.ParallelThingsBlock", "timm.ParallelScalingBlock"),
    r"blocks\.\d+\.(.+\.)?attn": ("timm.Attention",),
}
SETTINGS = {"global_pool": ("", "token", "avg", "map")}

_STEM = """
    patch_embed.proj.weight       patch: resid channel row column
    patch_embed.proj.bias         embed: resid
    cls_token                     embed: 1 1 resid
    dist_token                    embed: 1 1 resid
    given no_embed_class=True: reg_token  embed: 1 register resid
    reg_token                     embed: 1 place resid
    pos_embed                     embed: 1 position resid
    norm_pre.weight               vectors: resid
    norm_pre.bias                 vectors: resid
    norm norm_pre -> kept
    mean patch_embed.proj cls_token dist_token reg_token pos_embed norm_pre.bias -> norm fc_norm
"""

_NORMS = """
    blocks.{b}.norm1.weight       vectors: resid
    blocks.{b}.norm1.bias         vectors: resid
    blocks.{b}.norm2.weight       vectors: resid
    blocks.{b}.norm2.bias         vectors: resid
    blocks.{b}.ls1.gamma          vectors: resid
    blocks.{b}.ls2.gamma          vectors: resid
    norm  blocks.{b}.norm1 -> blocks.{b}.attn.qkv
    norm  blocks.{b}.norm2 -> blocks.{b}.mlp.fc1 blocks.{b}.mlp.fc1_g blocks.{b}.mlp.fc1_x
    scale blocks.{b}.ls1.gamma -> blocks.{b}.attn.proj
    scale blocks.{b}.ls2.gamma -> blocks.{b}.mlp.fc2
    bias  blocks.{b}.attn.qkv.bias[2] -> blocks.{b}.attn.proj
    norm  blocks.{b}.mlp.norm -> blocks.{b}.mlp.fc2
    mean  blocks.{b}.attn.proj blocks.{b}.mlp.fc2 -> norm fc_norm
"""

_ATTENTION = """
    blocks.{b}.attn.qkv.weight    q: (head.{b} qk.{b}) resid | k: (head.{b} qk.{b}*) resid | v: (head.{b} vo.{b}) resid
    blocks.{b}.attn.qkv.bias      vectors: (head.{b} qk.{b}) | vectors: (head.{b} qk.{b}*) | vectors: (head.{b} vo.{b})
    blocks.{b}.attn.proj.weight   o: resid (head.{b} vo.{b}*)
    blocks.{b}.attn.proj.bias     vectors: resid
    bias blocks.{b}.attn.qkv.bias[1] -> nothing
"""

_NORMED_ATTENTION = """
    blocks.{b}.attn.qkv.weight    q: (head.{b} dim.{b}) resid | k: (head.{b} dim.{b}) resid | v: (head.{b} vo.{b}) resid
    blocks.{b}.attn.qkv.bias      vectors: (head.{b} dim.{b}) | vectors: (head.{b} dim.{b}) | vectors: (head.{b} vo.{b})
    blocks.{b}.attn.q_norm.weight vectors: (dim.{b} factor.qk.{b})
    blocks.{b}.attn.q_norm.bias   vectors: (dim.{b} factor.qk.{b})
    blocks.{b}.attn.k_norm.weight vectors: (dim.{b} factor.qk.{b}*)
    blocks.{b}.attn.k_norm.bias   vectors: (dim.{b} factor.qk.{b}*)
    blocks.{b}.attn.proj.weight   o: resid (head.{b} vo.{b}*)
    blocks.{b}.attn.proj.bias     vectors: resid
    bias blocks.{b}.attn.k_norm.bias -> nothing
    mean blocks.{b}.attn.qkv[0] -> blocks.{b}.attn.q_norm
    mean blocks.{b}.attn.qkv[1] -> blocks.{b}.attn.k_norm
"""

_MLP = """
    blocks.{b}.mlp.fc1.weight     fc1: mlp.{b} resid
    blocks.{b}.mlp.fc1.bias       vectors: mlp.{b}
    blocks.{b}.mlp.norm.weight    vectors: mlp.{b}
    blocks.{b}.mlp.norm.bias      vectors: mlp.{b}
    blocks.{b}.mlp.fc2.weight     fc2: resid mlp.{b}
    blocks.{b}.mlp.fc2.bias       vectors: resid
"""

_GATED_MLP = """
    blocks.{b}.mlp.fc1_g.weight   fc1: mlp.{b} resid
    blocks.{b}.mlp.fc1_g.bias     vectors: mlp.{b}
    blocks.{b}.mlp.fc1_x.weight   fc1: (mlp.{b} factor.mlp.{b}) resid
    blocks.{b}.mlp.fc1_x.bias     vectors: (mlp.{b} factor.mlp.{b})
    blocks.{b}.mlp.fc2.weight     fc2: resid (mlp.{b} factor.mlp.{b}*)
    blocks.{b}.mlp.fc2.bias       vectors: resid
"""

_PACKED_MLP = """
    given blocks.{b}.mlp.gate_last=True: blocks.{b}.mlp.fc1.weight   fc1: (mlp.{b} factor.mlp.{b}) resid | fc1: mlp.{b} resid
    given blocks.{b}.mlp.gate_last=False: blocks.{b}.mlp.fc1.weight  fc1: mlp.{b} resid | fc1: (mlp.{b} factor.mlp.{b}) resid
    blocks.{b}.mlp.fc1.weight     fc1: mlp.{b} resid | fc1: mlp.{b} resid
    given blocks.{b}.mlp.gate_last=True: blocks.{b}.mlp.fc1.bias     vectors: (mlp.{b} factor.mlp.{b}) | vectors: mlp.{b}
    given blocks.{b}.mlp.gate_last=False: blocks.{b}.mlp.fc1.bias    vectors: mlp.{b} | vectors: (mlp.{b} factor.mlp.{b})
    blocks.{b}.mlp.fc1.bias       vectors: mlp.{b} | vectors: mlp.{b}
    given blocks.{b}.mlp.gate_last=True: blocks.{b}.mlp.fc2.weight   fc2: resid (mlp.{b} factor.mlp.{b}*)
    given blocks.{b}.mlp.gate_last=False: blocks.{b}.mlp.fc2.weight  fc2: resid (mlp.{b} factor.mlp.{b}*)
    blocks.{b}.mlp.fc2.weight     fc2: resid mlp.{b}
    blocks.{b}.mlp.fc2.bias       vectors: resid
"""

_NORM = """
    blocks.{b}.mlp.norm.weight    vectors: mlp.{b}
    blocks.{b}.mlp.norm.bias      vectors: mlp.{b}
    blocks.{b}.mlp.fc2"""


def _normed(table: str) -> str:
    """Puts a norm before the second layer of a gated MLP; it forbids factors of the values."""
    rows = [row for row in table.splitlines() if not row.strip().startswith("given")]
    return (
        "\n".join(rows)
        .replace("(mlp.{b} factor.mlp.{b}*)", "mlp.{b}")
        .replace("(mlp.{b} factor.mlp.{b})", "mlp.{b}")
        .replace("\n    blocks.{b}.mlp.fc2", _NORM, 1)
        + "\n"
    )


_MLPS = (_MLP, _GATED_MLP, _normed(_GATED_MLP), _PACKED_MLP, _normed(_PACKED_MLP))

_SCALING = """
    blocks.{b}.in_norm.weight       vectors: resid
    blocks.{b}.in_norm.bias         vectors: resid
    blocks.{b}.in_proj.weight       fc1: mlp.{b} resid
        / q: (head.{b} qk.{b}) resid | k: (head.{b} qk.{b}*) resid | v: (head.{b} vo.{b}) resid
    blocks.{b}.in_proj.bias         vectors: mlp.{b}
        / vectors: (head.{b} qk.{b}) | vectors: (head.{b} qk.{b}*) | vectors: (head.{b} vo.{b})
    blocks.{b}.mlp_bias             vectors: mlp.{b}
    blocks.{b}.attn_out_proj.weight o: resid (head.{b} vo.{b}*)
    blocks.{b}.attn_out_proj.bias   vectors: resid
    blocks.{b}.mlp_out_proj.weight  fc2: resid mlp.{b}
    blocks.{b}.mlp_out_proj.bias    vectors: resid
    blocks.{b}.ls.gamma             vectors: resid
    norm  blocks.{b}.in_norm -> blocks.{b}.in_proj
    scale blocks.{b}.ls.gamma -> blocks.{b}.attn_out_proj blocks.{b}.mlp_out_proj
    bias  blocks.{b}.in_proj.bias[3] -> blocks.{b}.attn_out_proj
    sum   blocks.{b}.mlp_out_proj.bias -> blocks.{b}.attn_out_proj.bias
    mean  blocks.{b}.attn_out_proj blocks.{b}.mlp_out_proj -> norm fc_norm
"""

_SCALING_FORMS = (
    _SCALING + "bias blocks.{b}.in_proj.bias[2] -> nothing",
    _SCALING.replace("qk.{b}*", "dim.{b}").replace("qk.{b}", "dim.{b}")
    + """
    blocks.{b}.q_norm.weight        vectors: (dim.{b} factor.qk.{b})
    blocks.{b}.q_norm.bias          vectors: (dim.{b} factor.qk.{b})
    blocks.{b}.k_norm.weight        vectors: (dim.{b} factor.qk.{b}*)
    blocks.{b}.k_norm.bias          vectors: (dim.{b} factor.qk.{b}*)
    bias  blocks.{b}.k_norm.bias -> nothing
    mean  blocks.{b}.in_proj[1] -> blocks.{b}.q_norm
    mean  blocks.{b}.in_proj[2] -> blocks.{b}.k_norm
""",
)

_TAIL = """
    norm.weight                   vectors: resid
    norm.bias                     vectors: resid
    fc_norm.weight                vectors: resid
    fc_norm.bias                  vectors: resid
    head.weight                   head: class resid
    head.bias                     head: class
    head_dist.weight              head: class resid
    head_dist.bias                head: class
    head.fc1.weight               head: mlp.head resid
    head.fc1.bias                 head: mlp.head
    head.fc2.weight               head: class mlp.head
    head.fc2.bias                 head: class
    norm norm    -> head head_dist head.fc1
    norm fc_norm -> head head.fc1
    sum  head_dist.bias -> head.bias
"""

_POOLED_TAIL = """
    norm.weight                   vectors: resid
    norm.bias                     vectors: resid
    attn_pool.latent              embed: 1 1 resid.latent
    attn_pool.q.weight            q: (head.pool qk.pool) resid.latent
    attn_pool.q.bias              vectors: (head.pool qk.pool)
    attn_pool.kv.weight           k: (head.pool qk.pool*) resid | v: (head.pool vo.pool) resid
    attn_pool.kv.bias             vectors: (head.pool qk.pool*) | vectors: (head.pool vo.pool)
    attn_pool.proj.weight         o: resid.pool (head.pool vo.pool*)
    attn_pool.proj.bias           vectors: resid.pool
    attn_pool.norm.weight         vectors: resid.pool
    attn_pool.norm.bias           vectors: resid.pool
    attn_pool.mlp.fc1.weight      fc1: mlp.pool resid.pool
    attn_pool.mlp.fc1.bias        vectors: mlp.pool
    attn_pool.mlp.fc2.weight      fc2: resid.pool mlp.pool
    attn_pool.mlp.fc2.bias        vectors: resid.pool
    norm norm -> attn_pool.kv
    constant attn_pool.latent -> attn_pool.q
    bias attn_pool.kv.bias[0] -> nothing
    bias attn_pool.kv.bias[1] -> attn_pool.proj
    norm attn_pool.norm -> attn_pool.mlp.fc1
""" + "\n".join(
    line.replace(" resid", " resid.pool")
    for line in _TAIL.splitlines()
    if line.split()[:1] and "norm norm " not in line and not line.strip().startswith("norm.")
)


def _parallel(table: str) -> str:
    """Rewrites the rows of a block for several attentions and MLPs side by side, each with its norm and layer scale."""
    names = {
        "norm1": "attns.{i}.norm",
        "ls1": "attns.{i}.ls",
        "attn.": "attns.{i}.attn.",
        "norm2": "ffns.{i}.norm",
        "ls2": "ffns.{i}.ls",
        "mlp.": "ffns.{i}.mlp.",
    }
    for old, new in names.items():
        table = table.replace("blocks.{b}." + old, "blocks.{b}." + new)
    table = re.sub(r"\b(head|qk|vo|dim|mlp)\.{b}", r"\1.{b}.{i}", table)
    table += """
    sum blocks.{b}.attns.{i}.attn.proj.bias -> blocks.{b}.attns.0.attn.proj.bias
    sum blocks.{b}.ffns.{i}.mlp.fc2.bias -> blocks.{b}.ffns.0.mlp.fc2.bias
"""
    return table


_FORMS = tuple(_NORMS + attention + mlp for attention in (_ATTENTION, _NORMED_ATTENTION) for mlp in _MLPS)

_BLOCKS = (*_FORMS, *map(_parallel, _FORMS), *_SCALING_FORMS)

TABLES = (
    *(_STEM + blocks + _TAIL for blocks in _BLOCKS),
    *((_STEM + blocks).replace("-> norm fc_norm", "-> norm") + _POOLED_TAIL for blocks in _BLOCKS),  # there fc_norm is of the pool
)
