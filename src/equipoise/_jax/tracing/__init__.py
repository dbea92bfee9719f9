"""What a traced function is told by, and what is known of it before it runs."""
