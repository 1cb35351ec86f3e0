"""BERT of Hugging Face (`transformers.BertModel`) with a classifier of texts, off its pooler, or of tokens, without one.

Its norms come after the sum: each writes to the residual stream with its scale and shift, which nothing can take over. So the
stream is permuted, never rotated, and only vectors written before a norm may have any mean.
"""

CLASSES = {
    "": (
        "transformers.BertForSequenceClassification",
        "transformers.BertForMultipleChoice",
        "transformers.BertForTokenClassification",
        "transformers.BertModel",
    )
}

_BODY = """
    bert.embeddings.word_embeddings.weight                     embed: token resid
    bert.embeddings.position_embeddings.weight                 embed: position resid
    bert.embeddings.token_type_embeddings.weight               embed: segment resid
    bert.embeddings.LayerNorm.weight                           vectors: resid
    bert.embeddings.LayerNorm.bias                             vectors: resid
    bert.encoder.layer.{b}.attention.self.query.weight         q: (head.{b} qk.{b}) resid
    bert.encoder.layer.{b}.attention.self.query.bias           vectors: (head.{b} qk.{b})
    bert.encoder.layer.{b}.attention.self.key.weight           k: (head.{b} qk.{b}*) resid
    bert.encoder.layer.{b}.attention.self.key.bias             vectors: (head.{b} qk.{b}*)
    bert.encoder.layer.{b}.attention.self.value.weight         v: (head.{b} vo.{b}) resid
    bert.encoder.layer.{b}.attention.self.value.bias           vectors: (head.{b} vo.{b})
    bert.encoder.layer.{b}.attention.output.dense.weight       o: resid (head.{b} vo.{b}*)
    bert.encoder.layer.{b}.attention.output.dense.bias         vectors: resid
    bert.encoder.layer.{b}.attention.output.LayerNorm.weight   vectors: resid
    bert.encoder.layer.{b}.attention.output.LayerNorm.bias     vectors: resid
    bert.encoder.layer.{b}.intermediate.dense.weight           fc1: mlp.{b} resid
    bert.encoder.layer.{b}.intermediate.dense.bias             vectors: mlp.{b}
    bert.encoder.layer.{b}.output.dense.weight                 fc2: resid mlp.{b}
    bert.encoder.layer.{b}.output.dense.bias                   vectors: resid
    bert.encoder.layer.{b}.output.LayerNorm.weight             vectors: resid
    bert.encoder.layer.{b}.output.LayerNorm.bias               vectors: resid
    norm bert.embeddings.LayerNorm -> kept
    norm bert.encoder.layer.{b}.attention.output.LayerNorm -> kept
    norm bert.encoder.layer.{b}.output.LayerNorm -> kept
    bias bert.encoder.layer.{b}.attention.self.key.bias -> nothing
    bias bert.encoder.layer.{b}.attention.self.value.bias -> bert.encoder.layer.{b}.attention.output.dense
    mean bert.embeddings.word_embeddings bert.embeddings.position_embeddings -> nothing
    mean bert.embeddings.token_type_embeddings -> nothing
    mean bert.encoder.layer.{b}.attention.output.dense bert.encoder.layer.{b}.output.dense -> nothing
"""

_OF_TOKENS = """
    classifier.weight                                          head: class resid
    classifier.bias                                            head: class
"""

_OF_TEXTS = """
    bert.pooler.dense.weight                                   head: mlp.pooler resid
    bert.pooler.dense.bias                                     head: mlp.pooler
    classifier.weight                                          head: class mlp.pooler
    classifier.bias                                            head: class
"""

_BASE = """
    bert.pooler.dense.weight                                   head: class resid
    bert.pooler.dense.bias                                     head: class
"""

TABLES = (_BODY + _OF_TOKENS, _BODY + _OF_TEXTS, (_BODY + _BASE).replace("bert.", ""))
