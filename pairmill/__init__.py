"""The ground floor: what curation, training and tune share and none of them owns; it imports none of them."""
