"""The Vision Transformer of timm (`timm.models.VisionTransformer`), in its common forms.

With or without class, register and distillation tokens, position embedding, pre-norm layer, layer scale, biases, q/k
norm, gated MLP, attention pooling; no head, a linear head (also the distilled pair) or an MLP head. Two things change
what a tensor means:

- a q/k norm standardises each head's features and thereby blocks the invertible maps of `qk`;
- a packed gated MLP stacks gate and value in one `fc1`, twice as tall as `fc2` is wide.
"""

_STEM = """
    patch_embed.proj.weight       patch: resid channel row column
    patch_embed.proj.bias         embed: resid
    cls_token                     embed: 1 1 resid
    dist_token                    embed: 1 1 resid
    reg_token                     embed: 1 register resid
    pos_embed                     embed: 1 position resid
    norm_pre.weight               vectors: resid
    norm_pre.bias                 vectors: resid
"""

_NORMS = """
    blocks.{b}.norm1.weight       vectors: resid
    blocks.{b}.norm1.bias         vectors: resid
    blocks.{b}.norm2.weight       vectors: resid
    blocks.{b}.norm2.bias         vectors: resid
    blocks.{b}.ls1.gamma          vectors: resid
    blocks.{b}.ls2.gamma          vectors: resid
"""

_ATTENTION = """
    blocks.{b}.attn.qkv.weight    q: (head.{b} qk.{b}) resid | k: (head.{b} qk.{b}*) resid | v: (head.{b} vo.{b}) resid
    blocks.{b}.attn.qkv.bias      vectors: (head.{b} qk.{b}) | vectors: (head.{b} qk.{b}*) | vectors: (head.{b} vo.{b})
    blocks.{b}.attn.proj.weight   o: resid (head.{b} vo.{b}*)
    blocks.{b}.attn.proj.bias     vectors: resid
"""

_NORMED_ATTENTION = """
    blocks.{b}.attn.qkv.weight    q: (head.{b} dim.{b}) resid | k: (head.{b} dim.{b}) resid | v: (head.{b} vo.{b}) resid
    blocks.{b}.attn.qkv.bias      vectors: (head.{b} dim.{b}) | vectors: (head.{b} dim.{b}) | vectors: (head.{b} vo.{b})
    blocks.{b}.attn.q_norm.weight vectors: dim.{b}
    blocks.{b}.attn.q_norm.bias   vectors: dim.{b}
    blocks.{b}.attn.k_norm.weight vectors: dim.{b}
    blocks.{b}.attn.k_norm.bias   vectors: dim.{b}
    blocks.{b}.attn.proj.weight   o: resid (head.{b} vo.{b}*)
    blocks.{b}.attn.proj.bias     vectors: resid
"""

_MLP = """
    blocks.{b}.mlp.fc1.weight     fc1: mlp.{b} resid
    blocks.{b}.mlp.fc1.bias       vectors: mlp.{b}
    blocks.{b}.mlp.fc1_g.weight   fc1: mlp.{b} resid
    blocks.{b}.mlp.fc1_g.bias     vectors: mlp.{b}
    blocks.{b}.mlp.fc1_x.weight   fc1: mlp.{b} resid
    blocks.{b}.mlp.fc1_x.bias     vectors: mlp.{b}
    blocks.{b}.mlp.norm.weight    vectors: mlp.{b}
    blocks.{b}.mlp.norm.bias      vectors: mlp.{b}
    blocks.{b}.mlp.fc2.weight     fc2: resid mlp.{b}
    blocks.{b}.mlp.fc2.bias       vectors: resid
"""

_PACKED_MLP = """
    blocks.{b}.mlp.fc1.weight     fc1: mlp.{b} resid | fc1: mlp.{b} resid
    blocks.{b}.mlp.fc1.bias       vectors: mlp.{b} | vectors: mlp.{b}
    blocks.{b}.mlp.norm.weight    vectors: mlp.{b}
    blocks.{b}.mlp.norm.bias      vectors: mlp.{b}
    blocks.{b}.mlp.fc2.weight     fc2: resid mlp.{b}
    blocks.{b}.mlp.fc2.bias       vectors: resid
"""

_TAIL = """
    norm.weight                   vectors: resid
    norm.bias                     vectors: resid
    attn_pool.latent              embed: 1 1 resid
    attn_pool.q.weight            q: (head.pool qk.pool) resid
    attn_pool.q.bias              vectors: (head.pool qk.pool)
    attn_pool.kv.weight           k: (head.pool qk.pool*) resid | v: (head.pool vo.pool) resid
    attn_pool.kv.bias             vectors: (head.pool qk.pool*) | vectors: (head.pool vo.pool)
    attn_pool.proj.weight         o: resid (head.pool vo.pool*)
    attn_pool.proj.bias           vectors: resid
    attn_pool.norm.weight         vectors: resid
    attn_pool.norm.bias           vectors: resid
    attn_pool.mlp.fc1.weight      fc1: mlp.pool resid
    attn_pool.mlp.fc1.bias        vectors: mlp.pool
    attn_pool.mlp.fc2.weight      fc2: resid mlp.pool
    attn_pool.mlp.fc2.bias        vectors: resid
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
"""

TABLES = tuple(
    _STEM + _NORMS + attention + mlp + _TAIL for attention in (_ATTENTION, _NORMED_ATTENTION) for mlp in (_MLP, _PACKED_MLP)
)
