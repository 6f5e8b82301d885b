"""A collaborative memory in the policy: what a scorer retrieves for a history weighs on every legal response.

``recall`` finds a prompt's items and what is known of them, ``head`` turns that into log-weights, ``prior`` sums the
weights along the trie, so that each step of decoding knows what lies below each legal continuation.
Letters: B prompts, M recalled items, F features, N items.
"""
