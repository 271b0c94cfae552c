"""Histories of clients, and whether one order of operations explains them. The verdict says what does not fit."""
