"""What machines can do at best, published or measured."""
