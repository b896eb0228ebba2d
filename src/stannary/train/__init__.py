"""Training in rounds that are pure functions of their logged inputs.

    round   theta_t, assignment, settings -> pseudo-gradient theta_t - theta_H     (round.py)
    merge   theta_t, outer state, admitted pseudo-gradients -> theta_(t+1), state  (merge.py)

Nothing is imported here: `schedule` and `settings` are plain arithmetic that the market may use,
the other modules need torch.
"""
