"""What a program must read and write at least, wherever its intermediate results stay."""
