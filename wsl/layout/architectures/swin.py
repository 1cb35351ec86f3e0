"""The Swin Transformer of timm (`timm.models.SwinTransformer`), with one to four stages.

Each stage has a residual stream of its own. The norms of a stage's blocks remove the mean of its stream, but the norm before
the next stage removes that of four neighbours together: only the last stage may have any mean. The norm after the patches
writes to the first stream with its scale, which forbids rotations of that one; those of the others are symmetries. A maximum
over positions (`global_pool` of `max` or `avgmax`) would depend on them, and on the sign of the last norm's scale: it is refused.
"""

CLASSES = {"": ("timm.SwinTransformer",)}
SETTINGS = {"global_pool": ("", "avg")}

_STEM = """
    patch_embed.proj.weight   patch: resid.0 channel row column
    patch_embed.proj.bias     embed: resid.0
    patch_embed.norm.weight   vectors: resid.0
    patch_embed.norm.bias     vectors: resid.0
    norm patch_embed.norm -> kept
    mean patch_embed.proj -> nothing
"""

_MERGE = """
    layers.{s}.downsample.norm.weight        vectors: (neighbour resid.{r})
    layers.{s}.downsample.norm.bias          vectors: (neighbour resid.{r})
    layers.{s}.downsample.reduction.weight   fc1: resid.{s} (neighbour resid.{r})
    norm layers.{s}.downsample.norm -> layers.{s}.downsample.reduction
"""

_BLOCKS = """
    layers.{s}.blocks.{b}.norm1.weight       vectors: resid.{s}
    layers.{s}.blocks.{b}.norm1.bias         vectors: resid.{s}
    layers.{s}.blocks.{b}.attn.relative_position_bias_table   embed: offset.{s} head.{s}.{b}
    layers.{s}.blocks.{b}.attn.qkv.weight    q: (head.{s}.{b} qk.{s}.{b}) resid.{s}
        | k: (head.{s}.{b} qk.{s}.{b}*) resid.{s}
        | v: (head.{s}.{b} vo.{s}.{b}) resid.{s}
    layers.{s}.blocks.{b}.attn.qkv.bias      vectors: (head.{s}.{b} qk.{s}.{b})
        | vectors: (head.{s}.{b} qk.{s}.{b}*)
        | vectors: (head.{s}.{b} vo.{s}.{b})
    layers.{s}.blocks.{b}.attn.proj.weight   o: resid.{s} (head.{s}.{b} vo.{s}.{b}*)
    layers.{s}.blocks.{b}.attn.proj.bias     vectors: resid.{s}
    layers.{s}.blocks.{b}.norm2.weight       vectors: resid.{s}
    layers.{s}.blocks.{b}.norm2.bias         vectors: resid.{s}
    layers.{s}.blocks.{b}.mlp.fc1.weight     fc1: mlp.{s}.{b} resid.{s}
    layers.{s}.blocks.{b}.mlp.fc1.bias       vectors: mlp.{s}.{b}
    layers.{s}.blocks.{b}.mlp.fc2.weight     fc2: resid.{s} mlp.{s}.{b}
    layers.{s}.blocks.{b}.mlp.fc2.bias       vectors: resid.{s}
    norm layers.{s}.blocks.{b}.norm1 -> layers.{s}.blocks.{b}.attn.qkv
    norm layers.{s}.blocks.{b}.norm2 -> layers.{s}.blocks.{b}.mlp.fc1
    bias layers.{s}.blocks.{b}.attn.qkv.bias[1] -> nothing
    bias layers.{s}.blocks.{b}.attn.qkv.bias[2] -> layers.{s}.blocks.{b}.attn.proj
"""

_TAIL = """
    norm.weight      vectors: resid.{s}
    norm.bias        vectors: resid.{s}
    head.fc.weight   head: class resid.{s}
    head.fc.bias     head: class
    norm norm -> head.fc
    mean layers.{s}.blocks.{b}.attn.proj layers.{s}.blocks.{b}.mlp.fc2 layers.{s}.downsample.reduction -> nothing
"""


def _table(stages: int) -> str:
    rows = [_STEM]
    for stage in range(stages):
        merge = _MERGE.replace("{r}", str(stage - 1)) if stage else ""
        rows.append((merge + _BLOCKS).replace("{s}", str(stage)))
    return "\n".join([*rows, _TAIL.replace("{s}", str(stages - 1))])


TABLES = tuple(map(_table, (1, 2, 3, 4)))
