"""How the updates of a lineage's lessons meet in the weights: norms, signs, cosines, subspaces, shared entries.

The update of a lesson is what it changed of what lies under the base: recall after it minus recall before it, or, for
methods that keep each concept apart, the concept's own change. `analyse.analyse` computes, one projection at a time;
`record` keeps the outcome beside the lineage (analysis.json) for the report and needs no torch.
"""
