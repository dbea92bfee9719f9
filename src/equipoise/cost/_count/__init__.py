"""What a program costs: the price of each primitive, and one walk that puts them together."""
