"""Fetch images from the open web: safe for the operator, polite to the sites, fast.

Read in this order: config, address, content_networks, answer_heads, chunks, coding, safe_http, robots, opt_out,
host_gate, gate_client, partial, fetch.
"""
