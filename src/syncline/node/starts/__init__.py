"""The starts of nodes: their incarnations, and what these prove. A start from an older or a second copy of a data directory
is found here.
"""
