"""The command `syncline repair`: replace a node that lost a part of its log. The plan decides whether that is
possible.
"""
