"""Estimators of the information a prompt and a picture share."""
