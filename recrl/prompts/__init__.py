"""Examples -> token ids of prompts: templates, items' names, candidates, recalled items."""
