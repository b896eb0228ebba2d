"""The power test: products of pseudo-random integer matrices that only a machine that computes can answer.

`matrix` what is multiplied, `prover` the node's side (torch or numpy), `transcript` the verifier's side
(numpy alone), `passes` memory and disk, `scu` what the figures are worth.
"""
