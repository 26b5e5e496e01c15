"""07: conversations, in a terminal and in a notebook."""
