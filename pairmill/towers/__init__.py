"""The two towers of a dual encoder, for who trains one and for who scores pairs with one.

    recipe section `model` -> architecture -> weights -> model and tokenizer -> pixels and texts to unit embeddings

Read in this order: config, architecture, no_weights, weights, build, model_folder; sentencepiece, tokens, tokenizer;
encode, token_features, caption_decoder, eval_transform, embed.
"""
