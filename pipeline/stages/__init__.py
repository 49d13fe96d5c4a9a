"""One module per stage, named as in `dvc.yaml` and `params.yaml`.

Each has a pure `run(config, inputs, out, *, seed, runtime) -> metrics`, and is a command:
`python -m pipeline.stages.pretrain --params params.yaml` computes what is missing for all experiments of the
file and writes the small files that DVC follows.
"""
