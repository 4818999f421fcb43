"""The two towers: recipe section `model` -> architecture -> model and tokenizer -> parameter groups and averages."""
