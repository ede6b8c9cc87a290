"""Embeddings -> an index on disk -> answers. Lance keeps the rows; a record beside them says what made them."""
