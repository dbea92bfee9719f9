"""Attention over several devices equals attention on one."""
