"""Pictures and texts as unit vectors of a dual encoder, and how well each text fits its picture.

Read in this order: config (what a recipe says), model_source (what its names mean), encoders (open_clip and
transformers), windows (texts longer than a model's context), text_vectors, vectors (vectors as columns), painting (text
painted over), preparation (one decode for several models), encoder_stage (what both stages share), stage (pictures and
captions), generated_texts (what models write later), sampled (a sample of a run's vectors), source_probe (can they tell
where a picture comes from?).
"""
