"""Supports: smooth maps of real vectors onto the sets where positions live."""
