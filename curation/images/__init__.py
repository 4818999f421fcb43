"""Bytes in, a measured, resized, re-encoded image out.

Read in this order: header, and the file of each format beside it; decode, colour, resize, measure, inspect, decoder.
"""
