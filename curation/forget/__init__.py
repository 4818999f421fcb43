"""Take rows out of a run and keep them out: the request, the rows it means, and the removal of every copy of them.

Read in this order: tombstones, request, finding, blanking, copies, written_texts, takedown.
"""
