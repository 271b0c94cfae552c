"""Histories of clients, and the check that one order of operations explains them. The verdict names the
contradictions.
"""
