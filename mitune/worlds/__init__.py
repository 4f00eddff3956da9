"""Embedded worlds: small closed worlds in which text-image alignment can be measured exactly."""
