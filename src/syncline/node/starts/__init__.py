"""The starts of nodes: their incarnations, and what these prove. Starts on an older copy of a data directory
are found here.
"""
