"""The market's face: its door, who asks, the routes, and the server that joins them to the parts of a market.

Layers, outermost first: gate (connections), edge (requests), access (who), routes_* (what), views (what is shown).
"""
