#!/bin/sh
# Throughput of the hyper-representation against padded rows, on digits and on ViTs of width 192: cifar100 cut to 2 roots x 6
# fine-tunings of few images, made here in 7 minutes on 2 cores from the local Parquet files in the folder that is the argument.
set -eu
data=${1:?name the folder of cifar100-train.parquet, cifar100-test.parquet, tiny-imagenet32-train.parquet, tiny-imagenet32-valid.parquet}
wide=${2:-checkpoints/zoos/cifar100_few}
digits=${3:-checkpoints/zoos/digits}
python -m zoo_gen zoo=cifar100 zoo.name=cifar100_few path="$wide" \
  zoo.pretrain_images.source="$data" zoo.pretrain_images.train=tiny-imagenet32-train.parquet \
  zoo.pretrain_images.test=tiny-imagenet32-valid.parquet zoo.pretrain_images.image=img 'zoo.pretrain_images.images=[320,64,64]' \
  zoo.finetune_images.source="$data" zoo.finetune_images.train=cifar100-train.parquet \
  zoo.finetune_images.test=cifar100-test.parquet 'zoo.finetune_images.images=[256,64,64]' \
  'zoo.pretrain.members=[{seed: 0},{seed: 1, learning_rate: 2e-3}]' zoo.pretrain.recipe.epochs=4 zoo.finetune.recipe.epochs=3 \
  zoo.pretrain.recipe.batch_size=32 zoo.finetune.recipe.batch_size=32 \
  zoo.pretrain.recipe.warmup_epochs=1 zoo.finetune.recipe.warmup_epochs=1 \
  '~zoo.finetune.axes.weight_decay' 'zoo.finetune.axes.head=[linear]'
python -m benchmarks.hyperrep_throughput "$digits"
python -m benchmarks.hyperrep_throughput "$wide" --train 20 --val 2 --turns 8 --seconds 24
