"""Many runs by one command: ``mitune STAGE -m key=a,b …``, launched by Hydra, one after another or on a cluster."""
