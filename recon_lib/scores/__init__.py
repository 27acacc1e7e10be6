"""How good is a reconstruction: identification, metrics, controls, quality."""
