"""Bytes in, a measured, resized, re-encoded image out.

Read in this order: header, decode, colour, resize, measure, inspect, decoder.  Each format has a file beside header.
"""
