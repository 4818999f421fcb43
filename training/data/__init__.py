"""Datasets on disk to exact, resumable batches.

Read in this order: config, sample, parquet, curated, webdataset, source, cursor, text_transforms, sentences, texts,
tokens, augment, bundle, batches, stream.
"""
