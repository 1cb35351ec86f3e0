"""The transformers of the Small Transformer Zoo (Tran et al., 2410.04209), on images or on words, without residual connections.

What a layer writes, only the norm behind it reads, so each has a stream of its own: `resid.0.attention`, `resid.0.mlp`, ... A table
is written for the blocks that a checkpoint has. The norms of the zoo have no weights; a model tells that they remove the mean. In a
stream between attention and MLP there is no vector that nothing else moves, so its rotations have no canonical form. The table
leaves these out.
"""

import re
from collections.abc import Mapping, Sequence

CLASSES = {"": ("model.VisionTransformer", "model.TextClassificationTransformer")}
TABLES: tuple[str, ...] = ()

_STEM = """
    embedding.conv1.weight         patch: resid.stem channel row column
    embedding.conv1.bias           embed: resid.stem
    embedding.embedding.weight     embed: word resid.stem
    embedding.pos_embedding        embed: position resid.stem
    mean embedding.conv1 embedding.embedding embedding.pos_embedding -> nothing
"""

_BLOCK = """
    encoder.{b=N}.norm1.weight                     vectors: BEFORE
    encoder.{b=N}.norm1.bias                       vectors: BEFORE
    encoder.{b=N}.norm2.weight                     vectors: resid.N.attention
    encoder.{b=N}.norm2.bias                       vectors: resid.N.attention
    encoder.{b=N}.attention.queries.weight         q: (head.{b} qk.{b}) BEFORE
    encoder.{b=N}.attention.keys.weight            k: (head.{b} qk.{b}*) BEFORE
    encoder.{b=N}.attention.values.weight          v: (head.{b} vo.{b}) BEFORE
    encoder.{b=N}.attention.out_projection.weight  o: resid.N.attention (head.{b} vo.{b}*)
    encoder.{b=N}.fc1.weight                       fc1: mlp.{b} resid.N.attention
    encoder.{b=N}.fc1.bias                         vectors: mlp.{b}
    encoder.{b=N}.fc2.weight                       fc2: resid.N.mlp mlp.{b}
    encoder.{b=N}.fc2.bias                         vectors: resid.N.mlp
    norm encoder.N.norm1 -> encoder.N.attention.queries encoder.N.attention.keys encoder.N.attention.values
    norm encoder.N.norm2 -> kept
    mean encoder.N.attention.out_projection encoder.N.fc2 -> nothing
"""

_TAIL = """
    norm.weight                    vectors: LAST
    norm.bias                      vectors: LAST
    classifier.fc1.weight          fc1: mlp.classifier LAST
    classifier.fc1.bias            vectors: mlp.classifier
    classifier.fc2.weight          head: class mlp.classifier
    classifier.fc2.bias            head: class
    norm norm -> classifier.fc1
"""


def tables(shapes: Mapping[str, tuple[int, ...]], modules: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Writes the table of a transformer; none for tensors that are none.

    Args:
        shapes: of the tensors.
        modules: names and classes of the modules of the model; not needed.
    """
    found = {match[1] for name in shapes if (match := re.match(r"encoder\.([0-9]{1,3})\.attention\.queries\.weight$", name))}
    text, stream = _STEM, "resid.stem"
    for block in sorted(map(int, found)):
        text += _BLOCK.replace("BEFORE", stream).replace("N", str(block))
        stream = f"resid.{block}.mlp"
    return (text + _TAIL.replace("LAST", stream),) if found else ()
