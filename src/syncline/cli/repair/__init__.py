"""`syncline repair`: replace a node that lost a part of its log. The plan decides whether it can be done."""
