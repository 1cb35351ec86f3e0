"""The Vision Transformer of Hugging Face: `transformers.ViTModel` and its classifier, of releases 5 and 4 (other names).

The model without a classifier returns its last norm's outputs, whose scale and shift are therefore its own. In a file of its own
its names lack the prefix `vit.`.
"""

from zoo_gen.formats.names import RELEASE_4

CLASSES = {"": ("transformers.ViTForImageClassification", "transformers.ViTModel")}

_TABLE = """
    vit.embeddings.cls_token                            embed: 1 1 resid
    vit.embeddings.mask_token                           embed: 1 1 resid
    vit.embeddings.position_embeddings                  embed: 1 position resid
    vit.embeddings.patch_embeddings.projection.weight   patch: resid channel row column
    vit.embeddings.patch_embeddings.projection.bias     embed: resid
    vit.layers.{b}.layernorm_before.weight              vectors: resid
    vit.layers.{b}.layernorm_before.bias                vectors: resid
    vit.layers.{b}.attention.q_proj.weight              q: (head.{b} qk.{b}) resid
    vit.layers.{b}.attention.q_proj.bias                vectors: (head.{b} qk.{b})
    vit.layers.{b}.attention.k_proj.weight              k: (head.{b} qk.{b}*) resid
    vit.layers.{b}.attention.k_proj.bias                vectors: (head.{b} qk.{b}*)
    vit.layers.{b}.attention.v_proj.weight              v: (head.{b} vo.{b}) resid
    vit.layers.{b}.attention.v_proj.bias                vectors: (head.{b} vo.{b})
    vit.layers.{b}.attention.o_proj.weight              o: resid (head.{b} vo.{b}*)
    vit.layers.{b}.attention.o_proj.bias                vectors: resid
    vit.layers.{b}.layernorm_after.weight               vectors: resid
    vit.layers.{b}.layernorm_after.bias                 vectors: resid
    vit.layers.{b}.mlp.fc1.weight                       fc1: mlp.{b} resid
    vit.layers.{b}.mlp.fc1.bias                         vectors: mlp.{b}
    vit.layers.{b}.mlp.fc2.weight                       fc2: resid mlp.{b}
    vit.layers.{b}.mlp.fc2.bias                         vectors: resid
    vit.layernorm.weight                                vectors: resid
    vit.layernorm.bias                                  vectors: resid
    classifier.weight                                   head: class resid
    classifier.bias                                     head: class
    norm vit.layers.{b}.layernorm_before ->
        vit.layers.{b}.attention.q_proj vit.layers.{b}.attention.k_proj vit.layers.{b}.attention.v_proj
    norm vit.layers.{b}.layernorm_after -> vit.layers.{b}.mlp.fc1
    norm vit.layernorm -> classifier
    bias vit.layers.{b}.attention.k_proj.bias -> nothing
    bias vit.layers.{b}.attention.v_proj.bias -> vit.layers.{b}.attention.o_proj
    mean vit.embeddings.cls_token vit.embeddings.mask_token vit.embeddings.position_embeddings -> nothing
    mean vit.embeddings.patch_embeddings.projection -> nothing
    mean vit.layers.{b}.attention.o_proj vit.layers.{b}.mlp.fc2 -> nothing
"""


_BASE = (
    _TABLE.replace("norm vit.layernorm -> classifier", "norm vit.layernorm -> kept")
    + """
    vit.pooler.dense.weight                             head: class resid
    vit.pooler.dense.bias                               head: class
"""
)

_TODAY = (_TABLE, _BASE.replace("vit.", ""))


def _release_4(table: str) -> str:
    for new, old in RELEASE_4.items():
        table = table.replace(new, old)
    return table


TABLES = (*_TODAY, *map(_release_4, _TODAY))
