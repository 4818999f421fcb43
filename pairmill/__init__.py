"""The ground floor: what curation, training and tune share; it imports none of them."""
