"""From betas to a brain vector, and models of what evokes betas."""
