"""The two towers of a dual encoder, for who trains one and for who scores pairs with one.

    recipe section `model` -> architecture -> weights -> model and tokenizer -> pixels and texts to unit embeddings

Read in this order: config, architecture, no_weights, positions, weights, growth, vl_ffn, build, model_folder;
sentencepiece, tokens, tokenizer; hidden_tokens, encode, token_features, corner_tokens, caption_decoder, image_sizes,
eval_transform, embed.
"""
