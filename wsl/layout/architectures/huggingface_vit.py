"""The Vision Transformer of Hugging Face (`transformers.ViTModel` and its classifier), of releases 5 and 4 (other names)."""

CLASSES = {"": ("transformers.ViTForImageClassification",)}

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


def _release_4(table: str) -> str:
    names = {
        "vit.layers.": "vit.encoder.layer.",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    for new, old in names.items():
        table = table.replace(new, old)
    return table


TABLES = (_TABLE, _release_4(_TABLE))
