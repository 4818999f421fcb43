"""Datasets on disk to exact, resumable batches.

Read in this order: config, sample, column_forms, text_scores, asked_columns, row_groups, parquet, curated, webdataset,
source, weighted, batch_policy, cursor, text_transforms, sentences, texts, word_pieces, word_counts, word_list,
mask_words, eda, augment, strong_views, bundle, step_texts, batches, stream.
"""
