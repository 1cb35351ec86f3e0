"""GPT-2 of Hugging Face (`transformers.GPT2LMHeadModel` and its sequence classifier), whose linear layers are stored transposed.

The language model reads its output with its token embeddings: its last norm cannot pass into them, so their mean counts and the
stream does not rotate. The classifier has a head of its own, and both are free.
"""

CLASSES = {"": ("transformers.GPT2LMHeadModel", "transformers.GPT2ForSequenceClassification", "transformers.GPT2Model")}

_TABLE = """
    transformer.wte.weight                embed: token resid
    transformer.wpe.weight                embed: position resid
    transformer.h.{b}.ln_1.weight         vectors: resid
    transformer.h.{b}.ln_1.bias           vectors: resid
    transformer.h.{b}.attn.c_attn.weight^T q: (head.{b} qk.{b}) resid
        | k: (head.{b} qk.{b}*) resid
        | v: (head.{b} vo.{b}) resid
    transformer.h.{b}.attn.c_attn.bias    vectors: (head.{b} qk.{b})
        | vectors: (head.{b} qk.{b}*)
        | vectors: (head.{b} vo.{b})
    transformer.h.{b}.attn.c_proj.weight^T o: resid (head.{b} vo.{b}*)
    transformer.h.{b}.attn.c_proj.bias    vectors: resid
    transformer.h.{b}.ln_2.weight         vectors: resid
    transformer.h.{b}.ln_2.bias           vectors: resid
    transformer.h.{b}.mlp.c_fc.weight^T fc1: mlp.{b} resid
    transformer.h.{b}.mlp.c_fc.bias       vectors: mlp.{b}
    transformer.h.{b}.mlp.c_proj.weight^T fc2: resid mlp.{b}
    transformer.h.{b}.mlp.c_proj.bias     vectors: resid
    transformer.ln_f.weight               vectors: resid
    transformer.ln_f.bias                 vectors: resid
    norm transformer.h.{b}.ln_1 -> transformer.h.{b}.attn.c_attn
    norm transformer.h.{b}.ln_2 -> transformer.h.{b}.mlp.c_fc
    bias transformer.h.{b}.attn.c_attn.bias[1] -> nothing
    bias transformer.h.{b}.attn.c_attn.bias[2] -> transformer.h.{b}.attn.c_proj
    mean transformer.wpe transformer.h.{b}.attn.c_proj transformer.h.{b}.mlp.c_proj -> nothing
"""

_LANGUAGE = """
    lm_head.weight   embed: token resid
    norm transformer.ln_f -> kept
"""

_CLASSIFIER = """
    score.weight     head: class resid
    norm transformer.ln_f -> score
    mean transformer.wte -> nothing
"""

_BASE = """
    norm transformer.ln_f -> kept
    mean transformer.wte -> nothing
"""

TABLES = (_TABLE + _LANGUAGE, _TABLE + _CLASSIFIER, (_TABLE + _BASE).replace("transformer.", ""))
