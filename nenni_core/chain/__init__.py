"""The paper's chain, a module for each stage: prepare, pretrain, distill, finetune, attack.

A stage is a function `(settings, inputs, out, *, seed, runtime)` that writes its results into the folder
`out` and returns its metrics. It needs no more than the rest of `nenni_core` does. The pipeline puts content
keys, the store, tracking and pictures around it; `benchmarks.paper_scale` runs it in a bare PyTorch image.
"""
