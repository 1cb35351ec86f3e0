"""Weight-space learning on Vision Transformers: weights in, tokens, embeddings, properties and new weights out.

Shapes, in every signature of this package:

    B  batch              T  tokens                D  weights per token     P  position coordinates
    Z  latent             M  width of the model    H  heads                 K  models in a stack
    L  blocks             N  checkpoints           F  features              E  members side by side
    C  columns

Glossary:

    zoo                   a folder of checkpoints of one population (`zoo_gen`)
    root                  a pre-trained model; its children are fine-tuned from it
    layout                where the weights of an architecture live and how each axis transforms (`wsl.layout.lookup`)
    part, role            an equal share of a tensor's first axis (q of qkv), and what it is for (`q`, `fc1`, ...)
    group                 the parts of one role in one block; tokens never cross groups
    tokens, plan          a checkpoint as vectors of one width, and where in them each weight lies (`wsl.tokenizers`)
    task vector           the difference of a model to its root
    hyper-representation  the latents of tokens under a trained autoencoder
    probe, generator      reads the embedding; samples new latents, hence new weights
"""
