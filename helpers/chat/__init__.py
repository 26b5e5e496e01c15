"""07: conversations, and their display in a terminal and in a notebook."""
