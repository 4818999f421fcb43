"""The commands of `pairmill`, by what they work on; `pipelines.cli` puts them together."""
