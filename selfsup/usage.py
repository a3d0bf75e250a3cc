"""What `selfsup --help` says: every command in a line."""

USAGE = """selfsup: self-supervised contrastive pretraining

  selfsup pretrain RECIPE [flags]     pretrain by a shipped recipe or by a .py file; run again to go on
  selfsup knn RUN [flags]             judge an encoder by weighted nearest neighbours
  selfsup retrieval RUN [flags]       judge an encoder by retrieval: Recall@k, mAP, MAP@R
  selfsup linear RUN [flags]          judge by a linear probe (--protocol features, moco, simclr, supcon, sweep)
  selfsup finetune RUN [flags]        train a classifier on few labels (--protocol simclr_v2, simclr_v1, sgd)
  selfsup distill TEACHER [flags]     train a student on a classifier's answers (--protocol self, smaller, features)
  selfsup semi RECIPE|RUN [flags]     pretrain, fine-tune on few labels, distil: --label-fraction 0.1
  selfsup cluster RUN [flags]         cluster features and compare with the labels (--protocol kmeans, dbscan)
  selfsup embed RUN --out FILE        features to FILE.npy and FILE.csv, or to FILE.parquet; run again to go on
  selfsup compare RUN RUN ...         the results of several runs in a table, and in a plot (--out FILE)
  selfsup import FILE --out DIR       another project's weights become an encoder (docs/weights.md says whose)
  selfsup replay CAPTURED [flags]     run a step that was left out again: RUN/captured/step_00000042
  selfsup recipes                     list the shipped recipes
  selfsup methods                     what each method remembers and minimises, its papers and recipes

RUN is a run folder, an encoder.safetensors, or a file of another project's weights (.pth, .safetensors).
Every command explains its flags with --help.
Of an encoder of your own, the commands on a RUN are told where it is defined: --recipe FILE.py.
On several GPUs: accelerate launch --num_processes N -m selfsup pretrain RECIPE [flags]
The last line on standard output is a JSON object with the figures; messages go to standard error.
"""
