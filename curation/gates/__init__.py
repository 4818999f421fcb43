"""Gates: what a model wrote is accepted, changed or refused before it is part of the product and of training.

    gate:
      gates:
        - opener                                                   # "The image shows a dog" -> "A dog"
        - {name: image_text_score, encoder: clip, least: 0.2}

Nothing is deleted: a refused text stays where its model's stage put it, and the column `gate` says who refused it.

Read in this order: gate (what a gate is, and the registry), stage (the stage that asks them), opener_gate,
language_gate, length_gate, probability_gate, similarity_gate, supported (what a row has to compare with), number_gate,
quotation_gate, name_gate.
"""
