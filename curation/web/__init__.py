"""Fetch images from the open web: safe for the operator, polite to the sites, fast.

Read in this order: config, address, safe_http, opt_out, host_gate, gate_client, fetch.
"""
