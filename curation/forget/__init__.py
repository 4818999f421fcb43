"""Take rows out of a run and keep them out: what is asked for, which rows that is, and how every copy of them goes.

Read in this order: tombstones, request, finding, blanking, copies, takedown.
"""
