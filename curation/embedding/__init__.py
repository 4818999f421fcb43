"""Pictures and texts as unit vectors of a dual encoder, and how well each text fits its picture.

Read in this order: config (what a recipe says), model_source (what its names mean), encoders (open_clip and
transformers), windows (texts longer than a model's context), vectors (vectors as columns), painting (text painted
over), preparation (one decode for several models), stage.
"""
