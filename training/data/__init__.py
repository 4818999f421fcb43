"""Datasets on disk to exact, resumable batches.

Read in this order: config, files, sample, parquet, curated, webdataset, source, cursor, texts, augment, bundle,
batches, stream.
"""
