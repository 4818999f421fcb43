"""Parquet to dual encoder: contrastive pretraining with Ray Train and DeepSpeed."""
