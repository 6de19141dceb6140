"""The mathematics that several paradigms share: Gaussian paths, ODE solvers, divergence, likelihood."""
