#!/bin/sh
# The cifar100 zoo cut down to minutes on a CPU: 2 roots x 4 fine-tunings from local Parquet files (argument: their folder).
set -eu
data=${1:?name the folder of cifar100-train.parquet, cifar100-test.parquet, tiny-imagenet32-train.parquet, tiny-imagenet32-valid.parquet}
path=${2:-checkpoints/zoos/cifar100_cut}
python -m zoo_gen zoo=cifar100 zoo.name=cifar100_cut path="$path" \
  zoo.pretrain_images.source="$data" zoo.pretrain_images.train=tiny-imagenet32-train.parquet \
  zoo.pretrain_images.test=tiny-imagenet32-valid.parquet zoo.pretrain_images.image=img 'zoo.pretrain_images.images=[2000,300,300]' \
  zoo.finetune_images.source="$data" zoo.finetune_images.train=cifar100-train.parquet \
  zoo.finetune_images.test=cifar100-test.parquet 'zoo.finetune_images.images=[2000,300,300]' \
  zoo.architecture.model_args.embed_dim=96 \
  'zoo.pretrain.members=[{},{objective: simclr, head: none, label_smoothing: 0.0, mixup: 0.0, cutmix: 0.0, crop: 0.4, jitter: 0.4}]' \
  zoo.pretrain.recipe.epochs=3 zoo.finetune.recipe.epochs=3 \
  '~zoo.finetune.axes.weight_decay' 'zoo.finetune.axes.learning_rate=[1e-3,1e-4]' 'zoo.finetune.axes.head=[linear]'
python -m zoo_gen.verify "$path"
