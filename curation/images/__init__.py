"""Bytes in, a measured, resized, re-encoded image out.

Read in this order: header, decode, resize, measure, inspect, decoder.
"""
